package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/cmd/fairlead/output"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller"
	"github.com/fairlead-io/fairlead/providers"
	"github.com/fairlead-io/fairlead/speaker"
	"github.com/fairlead-io/fairlead/speaker/bgp"
)

func explainCommand(access clientcmd.ClientConfig) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain svc [NAMESPACE/]NAME",
		Short: "Say which address a Service has, who announces it, and why.",
		Long: `Say which address a Service has, from which pool, which node announces it on
which link, and why: the decisions of the controller and of the speakers, made
again by their own code from what the API server shows now. Of a Service on AWS
it says what the controller has last heard of the balancer.`,
		Example: `  fairlead explain svc default/influxdb
  fairlead explain svc default/influxdb --from dump.yaml -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 || !slices.Contains([]string{"svc", "service", "services"}, args[0]) {
				return errors.New("what to explain? Try: fairlead explain svc NAMESPACE/NAME")
			}
			return nil
		},
	}
	from := objectFlags(cmd, access)
	policy := policyFlags(cmd)
	check, print := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := check(); err != nil {
			return err
		}
		var key types.NamespacedName
		var named bool
		if key.Namespace, key.Name, named = strings.Cut(args[1], "/"); !named {
			namespace, err := from.namespace()
			if err != nil {
				return err
			}
			key = types.NamespacedName{Namespace: namespace, Name: args[1]}
		}
		w, err := from.snapshot(cmd, policy)
		if err != nil {
			return err
		}
		e, err := explain(w, key)
		if err != nil {
			return err
		}
		return print(e)
	}
	return cmd
}

// explanation is the answer of explain.
type explanation struct {
	Service  string   `json:"service"`
	Type     string   `json:"type"` // with ports and policy, for people
	Provider provider `json:"provider"`
	// Address is how the pools were gone through, in the order of the decision.
	Address       []verdict          `json:"address"`
	Balancer      []string           `json:"balancer,omitempty"` // on AWS
	Announcements []announcement     `json:"announcements"`
	Conditions    []output.Condition `json:"conditions"`
	onAWS         bool
}

// provider is who serves the Service.
type provider struct {
	Verdict string          `json:"verdict"`
	Reason  v1alpha1.Reason `json:"reason,omitempty"`
	Message string          `json:"message"`
}

// verdict is what became of one pool, or of one held address.
type verdict struct {
	Family  string `json:"family"`
	Pool    string `json:"pool,omitempty"`
	Used    bool   `json:"used"`
	Message string `json:"message"`
}

// announcement is who announces one address.
type announcement struct {
	Address string          `json:"address"`
	Pool    string          `json:"pool"`             // recorded
	Reason  v1alpha1.Reason `json:"reason,omitempty"` // why nobody does
	Message string          `json:"message,omitempty"`
	Nodes   []announcer     `json:"nodes"`
}

// announcer is one node's part.
type announcer struct {
	Node    string          `json:"node"`
	Links   []string        `json:"links"` // on which it answers
	Routes  []route         `json:"routes"`
	Reason  v1alpha1.Reason `json:"reason,omitempty"` // why neither
	Message string          `json:"message,omitempty"`
}

// route is what a node tells a router.
type route struct {
	Peer        string `json:"peer"`
	Prefix      string `json:"prefix"`
	Told        bool   `json:"told"` // the session is established
	State       string `json:"state"`
	LocalPref   uint32 `json:"localPref"`
	MED         *int64 `json:"med,omitempty"`
	Prepend     int    `json:"prepend,omitempty"`
	Communities string `json:"communities,omitempty"`
}

// explain puts both decisions about one Service into words.
func explain(w objects.Snapshot, key types.NamespacedName) (e explanation, err error) {
	i := slices.IndexFunc(w.Controller.Services, func(s *corev1.Service) bool { return s.Namespace == key.Namespace && s.Name == key.Name })
	if i < 0 {
		return e, fmt.Errorf("there is no Service %s", key)
	}
	svc := w.Controller.Services[i]
	trace := controller.Explain(w.Controller, key)
	e = explanation{
		Service: key.String(), Type: ports(svc),
		Provider: provider{verdicts[trace.Choice.Verdict], trace.Choice.Reason, trace.Choice.Message},
		Address:  []verdict{}, Announcements: []announcement{}, Conditions: output.Conditions(trace.Plan.Conditions),
		onAWS: trace.Choice.Verdict == providers.OnAWS,
	}
	for _, v := range trace.Verdicts {
		e.Address = append(e.Address, verdict{v.Family.String(), v.Pool, v.Used, v.Message})
	}
	if e.onAWS {
		for _, in := range trace.Plan.Ingress {
			e.Balancer = append(e.Balancer, cmp.Or(in.Hostname, in.IP))
		}
	}
	for _, v := range speaker.Explain(w.Speaker, svc) {
		a := announcement{v.Addr.String(), v.Pool, v.Refusal.Reason, v.Refusal.Message, []announcer{}}
		for _, n := range v.Nodes {
			part := announcer{n.Node, append([]string{}, n.Owns...), []route{}, n.Reason, n.Message}
			for _, told := range n.Tells {
				part.Routes = append(part.Routes, routeOf(w, n.Node, told))
			}
			a.Nodes = append(a.Nodes, part)
		}
		e.Announcements = append(e.Announcements, a)
	}
	return e, nil
}

// routeOf is what a node tells a peer, and whether it reaches it.
func routeOf(s objects.Snapshot, node string, told speaker.Told) route {
	a := told.Attributes
	r := route{Peer: told.Peer, Prefix: told.Prefix.String(), LocalPref: a.LocalPref, Prepend: int(a.Prepend), Communities: a.Communities}
	if a.HasMED {
		med := int64(a.MED)
		r.MED = &med
	}
	r.Told, r.State = reaches(s, node, told)
	return r
}

// reaches says whether a route reaches its peer, or why it does not.
func reaches(s objects.Snapshot, node string, told speaker.Told) (reaches bool, state string) {
	family := "IPv4"
	if told.Prefix.Addr().Is6() {
		family = "IPv6"
	}
	switch session, reported := s.Session(node, told.Peer); {
	case !reported:
		return false, "its speaker has not reported"
	case session.State == bgp.Established.String() && slices.Contains(session.Families, family):
		return true, session.State
	case session.State == bgp.Established.String():
		return false, session.Withheld
	default:
		return false, cmp.Or(session.Problem, session.LastError, session.State)
	}
}

var verdicts = map[providers.Verdict]string{
	providers.NotOurs: "not Fairlead's", providers.Undecided: "undecided", providers.OnBareMetal: "bare metal", providers.OnAWS: "AWS",
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
