package objects

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	controllerplan "github.com/fairlead-io/fairlead/controller/plan"
	"github.com/fairlead-io/fairlead/providers"
	"github.com/fairlead-io/fairlead/speaker/l2"
	speakerplan "github.com/fairlead-io/fairlead/speaker/plan"
)

// Snapshot is the input of the decisions of the controller and of the speakers.
type Snapshot struct {
	Controller controllerplan.Snapshot
	Speaker    speakerplan.Snapshot // of no particular node
	// Reports are the statuses of the Speakers, by node, within their bounds.
	Reports map[string]v1alpha1.SpeakerStatus
	// MissingCRDs and Events are those of the Collection.
	MissingCRDs []string
	Events      []*corev1.Event
}

// Snapshot returns the input of the decisions at the time. Whether AWS is configured
// is known to the controller only, so it is read from the conditions of the
// Services. The Snapshot shares the objects with the Collection.
func (c *Collection) Snapshot(now time.Time, policy providers.Policy) Snapshot {
	policy.AWSLacks = reportedMessage(c.Services, v1alpha1.CloudNotConfigured)
	s := Snapshot{
		MissingCRDs: c.MissingCRDs, Events: c.Events,
		Controller: controllerplan.Snapshot{
			Policy: policy, Now: now, Objects: c.Objects, Services: c.Services, Nodes: c.Nodes, Namespaces: c.Namespaces,
			ServiceCIDRs: c.ServiceCIDRs, Speakers: c.Speakers, L2Nodes: c.L2Nodes,
		},
		Speaker: speakerplan.Snapshot{
			Services: c.Services, Nodes: c.Nodes, Namespaces: c.Namespaces, Slices: c.EndpointSlices,
			Interfaces: map[string][]l2.Interface{}, ProxyNotReady: map[string]bool{},
		},
	}
	// Problems of the configuration are part of the controller's decision, from the
	// same objects.
	s.Speaker.Config, _ = config.Parse(c.Objects)
	s.Reports = make(map[string]v1alpha1.SpeakerStatus, len(c.Speakers))
	for _, reported := range c.Speakers {
		s.Reports[reported.Name], _ = config.BoundReport(reported.Status)
	}
	// Since when a Service has had no endpoints is not known, so all of them count. A dump
	// without any EndpointSlice is not complete.
	if len(c.EndpointSlices) > 0 {
		s.Speaker.Local.WithoutEndpoints = c.withoutEndpoints()
	}
	for _, n := range c.L2Nodes {
		s.Speaker.Interfaces[n.Name], s.Speaker.ProxyNotReady[n.Name] = speakerplan.ReportedInterfaces(n), n.Status.ProxyNotReady
	}
	return s
}

// withoutEndpoints returns the Services without endpoints.
func (c *Collection) withoutEndpoints() map[speakerplan.EndpointFamily]bool {
	ofService := map[string][]*discoveryv1.EndpointSlice{}
	for _, slice := range c.EndpointSlices {
		key := cache.NewObjectName(slice.Namespace, slice.Labels[discoveryv1.LabelServiceName]).String()
		ofService[key] = append(ofService[key], slice)
	}
	without := map[speakerplan.EndpointFamily]bool{}
	for _, svc := range c.Services {
		for family, has := range speakerplan.EndpointFamilies(svc, ofService[cache.MetaObjectToName(svc).String()]) {
			without[family] = !has
		}
	}
	return without
}

// reportedMessage returns the message of the first condition Provisioned with the
// reason; "" if there is none.
func reportedMessage(services []*corev1.Service, reason v1alpha1.Reason) string {
	for _, svc := range services {
		if c := apimeta.FindStatusCondition(svc.Status.Conditions, v1alpha1.ConditionProvisioned); c != nil && c.Reason == string(reason) {
			return c.Message
		}
	}
	return ""
}

// Refusal returns why the node's speaker does not announce an address that the node owns:
// it is being withheld, or announcing it has failed. It is zero if the speaker does not
// report that.
func (s Snapshot) Refusal(node string, addr netip.Addr) v1alpha1.Refusal {
	for _, group := range s.Reports[node].Unannounced {
		if group.Reason != v1alpha1.AddressConflict && group.Reason != v1alpha1.AnnounceFailed {
			continue
		}
		for _, text := range group.Addresses {
			if reported, ok := config.ReportedRange(text); ok && reported.Contains(addr) {
				return v1alpha1.Refusal{Reason: group.Reason, Message: group.Message}
			}
		}
	}
	return v1alpha1.Refusal{}
}

// Session returns the session with the peer in the report of the node's speaker, if
// there is one.
func (s Snapshot) Session(node, peer string) (session v1alpha1.Session, reported bool) {
	sessions := s.Reports[node].Sessions
	if i := slices.IndexFunc(sessions, func(x v1alpha1.Session) bool { return x.Peer == peer }); i >= 0 {
		return sessions[i], true
	}
	return session, false
}
