package explain

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/fairlead-io/fairlead/cmd/fairlead/output"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Text writes the sections of the explanation. A star marks an effective choice, a
// dash one that is not in effect. It returns the error of the one write.
func (e Explanation) Text(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Service %s (%s)\n", e.Service, e.Type)
	fmt.Fprintf(&b, "\nProvider\n  %s: %s\n", e.Provider.Verdict, e.Provider.Message)
	if len(e.Address) > 0 {
		b.WriteString("\nAddress\n")
		b.WriteString(output.Table(func(t io.Writer) {
			for _, v := range e.Address {
				mark, what := "-", v.Message
				if v.Used {
					mark = "*"
					// Some messages of the allocator begin with the pool
					// themselves.
					if v.Pool != "" && !strings.HasPrefix(what, "pool ") {
						what = fmt.Sprintf("pool %s: %s", v.Pool, what)
					}
				}
				fmt.Fprintf(t, "  %s %s\t%s\n", mark, v.Family, what)
			}
		}))
	}
	if e.onAWS {
		b.WriteString("\nLoad balancer\n")
		for _, in := range e.Balancer {
			fmt.Fprintf(&b, "  * %s\n", in)
		}
		if len(e.Balancer) == 0 {
			b.WriteString("  - none yet\n")
		}
	}
	for _, a := range e.Announcements {
		b.WriteString(a.sectionText())
	}
	if len(e.Conditions) > 0 {
		b.WriteString("\nConditions\n")
		b.WriteString(output.Table(func(t io.Writer) {
			for _, c := range e.Conditions {
				// The prefix is the same for all of Fairlead's conditions.
				fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", strings.TrimPrefix(c.Type, v1alpha1.GroupVersion.Group+"/"), c.Status, c.Reason,
					c.Message)
			}
		}))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// sectionText returns the section of one address.
func (a addressAnnouncement) sectionText() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nAnnouncement of %s (pool %s)\n", a.Address, cmp.Or(a.Pool, "not recorded"))
	if a.Reason != "" {
		fmt.Fprintf(&b, "  - no node: %s: %s\n", a.Reason, a.Message)
	}
	ranked := slices.ContainsFunc(a.Nodes, func(n nodeAnnouncement) bool { return n.Ranking != nil })
	b.WriteString(output.Table(func(t io.Writer) {
		for _, n := range a.Nodes {
			node, nodeOfRoute := n.Node, n.Node
			if ranked {
				node, nodeOfRoute = n.Node+"\t"+n.rankingText(), n.Node+"\t"
			}
			if len(n.Interfaces) > 0 {
				fmt.Fprintf(t, "  * %s\tanswers on %s\t%s\n", node, n.interfacesText(), n.Owner)
			}
			for _, r := range n.Routes {
				if r.Advertised {
					fmt.Fprintf(t, "  * %s\tadvertises to %s\t%s\n", nodeOfRoute, r.Peer, r.attributesText())
				} else {
					fmt.Fprintf(t, "  - %s\tnot advertised to %s (%s)\t%s\n", nodeOfRoute, r.Peer, r.State, r.attributesText())
				}
			}
			if n.Reason != "" {
				fmt.Fprintf(t, "  - %s\t%s\t%s\n", node, n.Reason, n.Message)
			}
		}
	}))
	for _, text := range a.Next {
		fmt.Fprintf(&b, "  %s\n", text)
	}
	for _, text := range a.Warnings {
		fmt.Fprintf(&b, "  warning: %s\n", text)
	}
	return b.String()
}

// attributesText returns the prefix and the BGP path attributes.
func (r peerRoute) attributesText() string {
	text := r.Prefix
	if r.NextHop != "" {
		text += " next-hop " + r.NextHop
	}
	text += fmt.Sprintf(" local-pref %d", r.LocalPref)
	if r.MED != nil {
		text += fmt.Sprintf(" med %d", *r.MED)
	}
	if r.Prepend > 0 {
		text += fmt.Sprintf(" prepend %d", r.Prepend)
	}
	if r.Communities != "" {
		text += " communities " + r.Communities
	}
	return text
}
