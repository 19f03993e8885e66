package plan

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/fairlead-io/fairlead/cmd/fairlead/output"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Text writes the summary in one line, then tables of the Services, pools and
// problems in the result, then the notes. It returns the error of the one write.
func (r Result) Text(w io.Writer) error {
	var b strings.Builder
	if c := r.OnlyChanges(); len(c.Services)+len(c.Pools)+len(c.Problems) == 0 {
		b.WriteString("No changes. ")
	}
	b.WriteString(r.Summary.String() + "\n")
	if len(r.Services) > 0 {
		b.WriteString("\n" + output.Table(func(t io.Writer) {
			fmt.Fprintln(t, "SERVICE\tCHANGE\tADDRESSES\tWHY")
			for _, s := range r.Services {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", s.Service, serviceChangesText(s.Changes),
					changeText(s.Before.addressCell(), s.After.addressCell()), s.Why)
			}
		}))
	}
	if len(r.Pools) > 0 {
		b.WriteString("\n" + output.Table(func(t io.Writer) {
			fmt.Fprintln(t, "POOL\tCHANGE\tUSED/TOTAL v4\tUSED/TOTAL v6\tSERVICES\tOUT OF POOL\tADVERTISED\tOVERLAPS\tREADY")
			for _, p := range r.Pools {
				fmt.Fprintln(t, strings.Join(p.tableCells(), "\t"))
			}
		}))
	}
	if len(r.Problems) > 0 {
		b.WriteString("\n" + output.Table(func(t io.Writer) {
			fmt.Fprintln(t, "PROBLEM\tOBJECT\tREASON\tMESSAGE")
			for _, p := range r.Problems {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s: %s\n", p.Change, p.Object, p.Reason, p.Field, p.Message)
			}
		}))
	}
	if len(r.Notes) > 0 {
		b.WriteString("\n")
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "Note: %s.\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

var changeTexts = map[serviceChange]string{
	addressOutOfPool: "out of pool", addressBackInPool: "back in pool",
}

func serviceChangesText(changes []serviceChange) string {
	var texts []string
	for _, c := range changes {
		texts = append(texts, cmp.Or(changeTexts[c], string(c)))
	}
	return strings.Join(texts, ", ")
}

// changeText returns the values before and after, or the one value if they are equal.
func changeText(was, is string) string {
	if was == is {
		return was
	}
	return was + " -> " + is
}

// addressCell returns the addresses with their pools.
func (s *serviceState) addressCell() string {
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

// poolColumns are the columns of a pool that show its state.
var poolColumns = []func(*poolState) string{
	func(s *poolState) string { return s.IPv4.Usage },
	func(s *poolState) string { return s.IPv6.Usage },
	func(s *poolState) string { return fmt.Sprint(s.Services) },
	func(s *poolState) string { return fmt.Sprint(s.OutOfPool) },
	func(s *poolState) string { return s.conditionStatus(v1alpha1.ConditionAdvertised) },
	func(s *poolState) string { return s.conditionStatus(v1alpha1.ConditionOverlaps) },
	func(s *poolState) string { return s.conditionStatus(v1alpha1.ConditionReady) },
}

func (p poolResult) tableCells() []string {
	// A pool that exists on one side only is shown with the columns of that side.
	change, before, after := "changes", cmp.Or(p.Before, p.After), cmp.Or(p.After, p.Before)
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
	for _, column := range poolColumns {
		cells = append(cells, changeText(cmp.Or(column(before), "-"), cmp.Or(column(after), "-")))
	}
	return cells
}
