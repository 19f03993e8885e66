package uninstall

import (
	"fmt"
	"io"
	"strings"

	"github.com/fairlead-io/fairlead/cmd/fairlead/output"
)

// Text implements output.Result.
func (p Plan) Text(w io.Writer) error {
	var sections []string
	if len(p.LoadBalancers) > 0 {
		sections = append(sections, "Load balancers in AWS, which only a running controller can delete:\n"+output.Table(func(w io.Writer) {
			fmt.Fprintln(w, "  SERVICE\tLOAD BALANCER\tCLUSTER NAME")
			for _, l := range p.LoadBalancers {
				fmt.Fprintf(w, "  %s\t%s\t%s\n", l.Service, orNone(l.Host), orNone(l.Cluster))
			}
		}))
	}
	if len(p.Workloads) > 0 {
		sections = append(sections, "Workloads that are deleted first:\n  "+strings.Join(p.Workloads, "\n  ")+"\n")
	}
	if len(p.Services) > 0 {
		sections = append(sections, "Services:\n"+output.Table(func(w io.Writer) {
			fmt.Fprintln(w, "  SERVICE\tKEEPS\tRELEASES\tREMOVED")
			for _, s := range p.Services {
				fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", s.Service, orNone(s.Addresses...), orNone(s.Released...), orNone(s.Removes...))
			}
		}))
	}
	if len(p.Objects) > 0 {
		sections = append(sections, "Objects that are deleted last:\n  "+strings.Join(p.Objects, "\n  ")+"\n")
	}
	if len(sections) == 0 {
		sections = []string{"Nothing of Fairlead is in the cluster.\n"}
	}
	_, err := io.WriteString(w, strings.Join(sections, "\n"))
	return err
}

func orNone(all ...string) string {
	if text := strings.Join(all, ","); text != "" {
		return text
	}
	return "none"
}
