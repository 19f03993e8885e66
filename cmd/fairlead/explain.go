package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller"
	"github.com/fairlead-io/fairlead/providers"
	"github.com/fairlead-io/fairlead/speaker"
	"github.com/fairlead-io/fairlead/speaker/bgp"
)

func explainCommand(access clientcmd.ClientConfig) *cobra.Command {
	var policy func([]*corev1.Service) (providers.Policy, error)
	cmd := &cobra.Command{
		Use:   "explain svc [NAMESPACE/]NAME",
		Short: "Say which address a Service has, who announces it, and why.",
		Long: `Say which address a Service has, from which pool, which node announces it on
which link, and why: the decisions of the controller and of the speakers, made
again by their own code from what the API server shows now. Of a Service on AWS
it says what the controller has last heard of the balancer.`,
		Example: "  fairlead explain svc default/influxdb",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 || !slices.Contains([]string{"svc", "service", "services"}, args[0]) {
				return errors.New("what to explain? Try: fairlead explain svc NAMESPACE/NAME")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			namespace, _, err := access.Namespace()
			if err != nil {
				return fmt.Errorf("read the kubeconfig: %w", err)
			}
			key := types.NamespacedName{Namespace: namespace, Name: args[1]}
			if ns, name, ok := strings.Cut(args[1], "/"); ok {
				key = types.NamespacedName{Namespace: ns, Name: name}
			}
			world, err := look(cmd.Context(), access)
			if err != nil {
				return err
			}
			if world.cluster.Policy, err = policy(world.cluster.Services); err != nil {
				return err
			}
			return explain(cmd.OutOrStdout(), world, key)
		},
	}
	policy = policyFlags(cmd)
	return cmd
}

// explain prints both decisions about one Service.
func explain(out io.Writer, w world, key types.NamespacedName) error {
	i := slices.IndexFunc(w.cluster.Services, func(s *corev1.Service) bool { return s.Namespace == key.Namespace && s.Name == key.Name })
	if i < 0 {
		return fmt.Errorf("there is no Service %s", key)
	}
	svc := w.cluster.Services[i]
	trace := controller.Explain(w.cluster, key)

	var b strings.Builder
	fmt.Fprintf(&b, "Service %s (%s)\n", key, ports(svc))
	fmt.Fprintf(&b, "\nProvider\n  %s: %s\n", verdicts[trace.Choice.Verdict], trace.Choice.Message)
	if len(trace.Verdicts) > 0 {
		b.WriteString("\nAddress\n")
		table(&b, func(t io.Writer) {
			for _, v := range trace.Verdicts {
				mark, what := "-", v.Message
				if v.Used {
					mark = "*"
					if v.Pool != "" && !strings.HasPrefix(what, "pool ") {
						what = fmt.Sprintf("pool %s: %s", v.Pool, what)
					}
				}
				fmt.Fprintf(t, "  %s %s\t%s\n", mark, v.Family, what)
			}
		})
	}
	if trace.Choice.Verdict == providers.OnAWS {
		b.WriteString("\nBalancer\n")
		for _, in := range trace.Plan.Ingress {
			fmt.Fprintf(&b, "  * %s\n", cmp.Or(in.Hostname, in.IP))
		}
		if len(trace.Plan.Ingress) == 0 {
			b.WriteString("  - none yet\n")
		}
	}
	for _, v := range speaker.Explain(w.nodes, svc) {
		fmt.Fprintf(&b, "\nAnnouncement of %s (pool %s)\n", v.Addr, orNone(v.Pool))
		if v.Refusal.Reason != "" {
			fmt.Fprintf(&b, "  - nobody: %s: %s\n", v.Refusal.Reason, v.Refusal.Message)
		}
		table(&b, func(t io.Writer) {
			for _, n := range v.Nodes {
				if len(n.Owns) > 0 {
					fmt.Fprintf(t, "  * %s\tanswers on %s\thighest rank of the eligible nodes\n", n.Node, strings.Join(n.Owns, ", "))
				}
				for _, told := range n.Tells {
					mark, how := w.session(n.Node, told)
					fmt.Fprintf(t, "  %s %s\t%s\t%s\n", mark, n.Node, how, attributes(told))
				}
				if n.Reason != "" {
					fmt.Fprintf(t, "  - %s\t%s\t%s\n", n.Node, n.Reason, n.Message)
				}
			}
		})
	}
	if len(trace.Plan.Conditions) > 0 {
		b.WriteString("\nConditions\n")
		table(&b, func(t io.Writer) {
			for _, c := range trace.Plan.Conditions {
				fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", strings.TrimPrefix(c.Type, v1alpha1.GroupVersion.Group+"/"), c.Status, c.Reason, c.Message)
			}
		})
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// session says how a route reaches its peer, or why it does not.
func (w world) session(node string, told speaker.Told) (mark, how string) {
	for _, s := range w.cluster.Speakers {
		if s.Name != node {
			continue
		}
		i := slices.IndexFunc(s.Status.Sessions, func(x v1alpha1.Session) bool { return x.Peer == told.Peer })
		if i < 0 {
			break
		}
		family := "IPv4"
		if told.Prefix.Addr().Is6() {
			family = "IPv6"
		}
		switch session := s.Status.Sessions[i]; {
		case session.State == bgp.Established.String() && slices.Contains(session.Families, family):
			return "*", "tells " + told.Peer
		case session.State == bgp.Established.String():
			return "-", fmt.Sprintf("would tell %s (%s)", told.Peer, session.Withheld)
		default:
			return "-", fmt.Sprintf("would tell %s (%s)", told.Peer, cmp.Or(session.Problem, session.LastError, session.State))
		}
	}
	return "-", fmt.Sprintf("would tell %s (its speaker has not reported)", told.Peer)
}

// attributes writes a route as network people do.
func attributes(t speaker.Told) string {
	text := fmt.Sprintf("%s local-pref %d", t.Prefix, t.Attributes.LocalPref)
	if t.Attributes.HasMED {
		text += fmt.Sprintf(" med %d", t.Attributes.MED)
	}
	if t.Attributes.Prepend > 0 {
		text += fmt.Sprintf(" prepend %d", t.Attributes.Prepend)
	}
	if t.Attributes.Communities != "" {
		text += " communities " + t.Attributes.Communities
	}
	return text
}

var verdicts = map[providers.Verdict]string{
	providers.NotOurs: "not Fairlead's", providers.Undecided: "undecided", providers.OnBareMetal: "bare metal", providers.OnAWS: "AWS",
}

func table(b *strings.Builder, rows func(io.Writer)) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	rows(t)
	_ = t.Flush() // a strings.Builder cannot fail
}

func ports(svc *corev1.Service) string {
	all := []string{string(svc.Spec.Type)}
	for _, p := range svc.Spec.Ports {
		all = append(all, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
	}
	if svc.Spec.ExternalTrafficPolicy != "" {
		all = append(all, "externalTrafficPolicy "+string(svc.Spec.ExternalTrafficPolicy))
	}
	return strings.Join(all, ", ")
}

func keyOf(svc *corev1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
}

func orNone(s string) string {
	if s == "" {
		return "not recorded"
	}
	return s
}
