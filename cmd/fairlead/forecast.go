package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/fairlead-io/fairlead/cmd/fairlead/output"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// summary counts Services. One that has several changes counts for each.
type summary struct {
	Keep        int `json:"keep"`      // every address that they have
	OutOfPool   int `json:"outOfPool"` // of those that keep
	Renumber    int `json:"renumber"`  // of those that keep
	Unannounced int `json:"unannounced"`
	Lose        int `json:"lose"`
	Move        int `json:"move"`
	Get         int `json:"get"`
	Refused     int `json:"refused"`
	Lack        int `json:"lack"` // an address, before and after
}

func (s summary) loss() bool { return s.Lose+s.Move+s.Unannounced > 0 }

func summarize(all []servicePreview) (s summary) {
	for _, p := range all {
		had := p.Before != nil && len(p.Before.Addresses) > 0
		has := p.After != nil && len(p.After.Addresses) > 0
		if had && !slices.Contains(p.Changes, loses) && !slices.Contains(p.Changes, moves) {
			s.Keep++
		}
		if !has && !had && p.Changes[0] == lacks {
			s.Lack++
		}
		for _, c := range p.Changes {
			switch c {
			case outOfPool:
				s.OutOfPool++
			case renumbers:
				s.Renumber++
			case unannounced:
				s.Unannounced++
			case loses:
				s.Lose++
			case moves:
				s.Move++
			case gets:
				s.Get++
			case refused:
				s.Refused++
			}
		}
	}
	return s
}

// text is one line that says all, then the lines of what changes.
func (f forecast) Text(w io.Writer) error {
	var b strings.Builder
	if f.nothing {
		b.WriteString("Nothing changes. ")
	}
	b.WriteString(f.Summary.String() + "\n")
	if len(f.Services) > 0 {
		b.WriteString("\n")
		b.WriteString(output.Table(func(t io.Writer) {
			fmt.Fprintln(t, "SERVICE\tCHANGE\tADDRESSES\tWHY")
			for _, p := range f.Services {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", p.Service, words(p.Changes), arrow(p.Before.cell(), p.After.cell()), p.Why)
			}
		}))
	}
	if len(f.Pools) > 0 {
		b.WriteString("\n")
		b.WriteString(output.Table(func(t io.Writer) {
			fmt.Fprintln(t, "POOL\tCHANGE\tUSED/TOTAL v4\tUSED/TOTAL v6\tSERVICES\tOUT OF POOL\tADVERTISED\tOVERLAPS\tREADY")
			for _, p := range f.Pools {
				fmt.Fprintln(t, strings.Join(p.cells(), "\t"))
			}
		}))
	}
	if len(f.Problems) > 0 {
		b.WriteString("\n")
		b.WriteString(output.Table(func(t io.Writer) {
			fmt.Fprintln(t, "PROBLEM\tOBJECT\tREASON\tMESSAGE")
			for _, p := range f.Problems {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s: %s\n", p.Change, p.Object, p.Reason, p.Field, p.Message)
			}
		}))
	}
	if len(f.Notes) > 0 {
		b.WriteString("\n")
	}
	for _, n := range f.Notes {
		fmt.Fprintf(&b, "Note: %s.\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// String is the summary in a sentence.
func (s summary) String() string {
	var parts []string
	if s.Keep > 0 {
		keep := output.Count(s.Keep, "Service keeps its address", "Services keep their addresses")
		for _, some := range []struct {
			n         int
			one, many string
		}{
			{s.OutOfPool, "becomes out of pool", "become out of pool"},
			{s.Renumber, "gets a new one beside it", "get a new one beside it"},
			{s.Unannounced, "is not announced any more", "are not announced any more"},
		} {
			switch {
			case some.n == 1 && s.Keep == 1:
				keep += ", and " + some.one
			case some.n == 1:
				keep += ", 1 of them " + some.one
			case some.n > 1:
				keep += fmt.Sprintf(", %d of them %s", some.n, some.many)
			}
		}
		parts = append(parts, keep)
	}
	for _, more := range []struct {
		n         int
		one, many string
	}{
		{s.Lose, "Service loses an address", "Services lose an address"},
		{s.Move, "Service changes its address at once", "Services change their address at once"},
		{s.Get, "Service newly gets an address", "Services newly get an address"},
		{s.Refused, "Service is refused what it asks for", "Services are refused what they ask for"},
		{s.Lack, "Service has no address, before and after", "Services have no address, before and after"},
	} {
		if more.n > 0 {
			parts = append(parts, output.Count(more.n, more.one, more.many))
		}
	}
	if len(parts) == 0 {
		return "There is no Service that Fairlead serves."
	}
	return strings.Join(parts, "; ") + "."
}

var changeWords = map[change]string{
	outOfPool: "out of pool", backInPool: "back in pool",
}

func words(all []change) string {
	var texts []string
	for _, c := range all {
		texts = append(texts, cmp.Or(changeWords[c], string(c)))
	}
	return strings.Join(texts, ", ")
}

// arrow is what was and what will be, or what stays.
func arrow(was, is string) string {
	if was == is {
		return was
	}
	return was + " -> " + is
}

// cell is the addresses of a standing, with their pools.
func (s *standing) cell() string {
	if s == nil || len(s.Addresses) == 0 {
		return "none"
	}
	var texts []string
	for _, h := range s.Addresses {
		text := h.Address
		switch {
		case h.Pool != "" && h.Leaving:
			text += " (" + h.Pool + ", leaving)"
		case h.Pool != "":
			text += " (" + h.Pool + ")"
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}

// cells are the columns of a pool.
func (p poolPreview) cells() []string {
	change := "changes"
	switch {
	case p.Before == nil:
		change = "new"
	case p.After == nil:
		change = "deleted"
	case p.After.Terminating && !p.Before.Terminating:
		change = "terminating"
	case !p.Changed:
		change = "stays"
	}
	cells := []string{p.Pool, change}
	for _, column := range []func(*poolState) string{
		func(s *poolState) string { return s.IPv4.Usage },
		func(s *poolState) string { return s.IPv6.Usage },
		func(s *poolState) string { return fmt.Sprint(s.Services) },
		func(s *poolState) string { return fmt.Sprint(s.OutOfPool) },
		func(s *poolState) string { return s.condition(v1alpha1.ConditionAdvertised) },
		func(s *poolState) string { return s.condition(v1alpha1.ConditionOverlaps) },
		func(s *poolState) string { return s.condition(v1alpha1.ConditionReady) },
	} {
		var sides []string
		for _, side := range []*poolState{p.Before, p.After} {
			if side != nil {
				sides = append(sides, cmp.Or(column(side), "-"))
			}
		}
		cells = append(cells, arrow(sides[0], sides[len(sides)-1]))
	}
	return cells
}
