package aws

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// reportBalancer sets the status and the report of the sync. While a load
// balancer is replaced the status has the old one's name until AWS has
// provisioned the new one.
func (r *reconciler) reportBalancer(b elb.LoadBalancer) {
	l := r.result
	l.status, l.subject, l.progress, l.zones = statusOf(b), r.describeBalancer(b), "", zonesOf(b)
	l.report = providers.Report{Ready: true, Reason: v1alpha1.Assigned}
	switch state := stateOf(b); {
	// The name of the old load balancer stays in the status: the new one does not
	// resolve or serve yet.
	case r.old != nil && !isProvisioned(b):
		l.incomplete, l.progress = true, "; it replaces "+aws.ToString(r.old.LoadBalancerName)+" when AWS has provisioned it"
		l.report.Reason, l.status = v1alpha1.Provisioning, statusOf(*r.old)
	case r.old != nil:
		l.incomplete, l.progress = true, "; it replaces "+aws.ToString(r.old.LoadBalancerName)+
			", which is deleted when a target is healthy and clients have had some minutes to resolve the new name"
	case state == elb.LoadBalancerStateEnumActive:
	case state == elb.LoadBalancerStateEnumActiveImpaired:
		l.progress = "; AWS does not have the resources to scale it up (active_impaired)"
	case state == elb.LoadBalancerStateEnumProvisioning:
		l.report = providers.Report{Reason: v1alpha1.Provisioning, RequeueAfter: r.pollInterval}
		l.progress = "; AWS is provisioning it, which takes one to four minutes"
	// The load balancer has failed. It is reported, but not recreated.
	default:
		l.report = providers.Report{Reason: v1alpha1.CloudFailed, RequeueAfter: r.pollInterval}
		l.progress = fmt.Sprintf("; its state is %s: %s", state, aws.ToString(b.State.Reason))
	}
	switch {
	case l.incomplete || len(l.missing) > 0:
		l.report.RequeueAfter = r.pollInterval
	// AWS releases references some time after the object that had them is deleted.
	case len(l.left) > 0 && l.report.RequeueAfter == 0:
		l.report.RequeueAfter = min(r.pollInterval<<min(l.leftSyncs, 6), r.options.Resync)
	}
	l.composeMessage()
}

func (r *reconciler) describeBalancer(b elb.LoadBalancer) string {
	scheme := string(b.Scheme)
	if scheme == "" {
		scheme = string(r.result.desired.Scheme)
	}
	return fmt.Sprintf("%s Network Load Balancer %s in %s", scheme, aws.ToString(b.LoadBalancerName), r.apiClients.region)
}

// addExisting adds to a Refusal what the Service has in AWS meanwhile. Its text does not
// change with each retry, because it is part of the condition.
func (r *reconciler) addExisting(err error) error {
	var refusal *v1alpha1.Refusal
	o := &r.observed
	// The Refusal of objects that have lost their tags names them.
	if !errors.As(err, &refusal) || len(o.unowned) > 0 {
		return err
	}
	if len(o.balancers) == 0 && !r.created && len(o.groups)+len(o.security) == 0 {
		return err
	}
	text := "the target groups and security groups that were created stay until the next sync or the deletion of the Service"
	if len(o.balancers) > 0 {
		var names []string
		for _, b := range o.balancers {
			names = append(names, aws.ToString(b.LoadBalancerName))
		}
		text = fmt.Sprintf("existing meanwhile, and billed: load balancer %s", strings.Join(names, " and "))
	}
	return newRefusal(refusal.Reason, "%s; %s", refusal.Message, text)
}

// zonesOf returns the zones in which the load balancer has a subnet.
func zonesOf(b elb.LoadBalancer) (zones []string) {
	for _, z := range b.AvailabilityZones {
		zones = append(zones, aws.ToString(z.ZoneName))
	}
	return zones
}

// unservedNodes describes the nodes in zones without a subnet of the load balancer,
// "" if there are none. With cross-zone load balancing they receive traffic
// (Elastic Load Balancing, "Update the Availability Zones for your Network Load
// Balancer").
func (l *lastSync) unservedNodes() string {
	if len(l.zones) == 0 || l.desired.crossZone() {
		return ""
	}
	var list []string
	for _, zone := range slices.Sorted(maps.Keys(l.nodesIn)) {
		if zone != "" && !slices.Contains(l.zones, zone) {
			list = append(list, pluralize(l.nodesIn[zone], "node")+" in zone "+zone)
		}
	}
	if len(list) == 0 {
		return ""
	}
	return fmt.Sprintf("; no traffic for %s: the load balancer does not have a subnet there; "+
		"list one subnet of each zone in the annotation %ssubnets", strings.Join(list, ", "), prefix)
}

// recordMissing records the desired targets that cannot be registered.
func (l *lastSync) recordMissing(usable []instance) {
	l.missing, l.noUsable, l.nodesIn = nil, len(usable) == 0, map[string]int{}
	for _, i := range usable {
		l.nodesIn[i.Zone]++
	}
	for _, t := range l.targets {
		cause := l.unusable[t.Instance]
		if cause == "" && !l.refused[t.Instance].IsZero() {
			cause = "instance refused by AWS"
		}
		if cause != "" {
			l.missing = append(l.missing, missingTarget{t.Node, cause})
		}
	}
}

// describeMissing lists the targets that are not registered, by cause.
func (l *lastSync) describeMissing() string {
	nodes := map[string][]string{}
	for _, m := range l.missing {
		nodes[m.cause] = append(nodes[m.cause], m.node)
	}
	var texts []string
	for _, cause := range slices.Sorted(maps.Keys(nodes)) {
		texts = append(texts, shortList(nodes[cause])+" ("+cause+")")
	}
	return strings.Join(texts, ", ")
}

// refuseTargets returns why none of the nodes can be a target.
func (l *lastSync) refuseTargets() *v1alpha1.Refusal {
	if len(l.targets) > 0 {
		l.recordMissing(nil)
		return newRefusal(v1alpha1.NoTargets, "no node can be a target: %s", l.describeMissing())
	}
	if len(l.desired.NodeLabels) > 0 {
		return newRefusal(v1alpha1.NoTargets, "annotation %starget-node-labels: selects no node that is an instance", prefix)
	}
	return newRefusal(v1alpha1.NoTargets, "no node is an instance: spec.providerID of a Node must be aws:///ZONE/INSTANCE")
}

// composeMessage sets the report's message, and its reason if it depends on the
// targets.
func (l *lastSync) composeMessage() {
	used := 0
	// All target groups have the same targets, so the first one stands for them.
	if len(l.groups) > 0 {
		used = len(l.groups[0].instances)
	}
	l.report.Message = fmt.Sprintf("%s, %s%s", l.subject, pluralize(used, "target"), l.progress)
	if len(l.left) > 0 {
		l.report.Message += "; not deleted yet: " + shortList(l.left)
	}
	switch l.report.Reason {
	// Reasons of the load balancer itself, such as Provisioning, take precedence
	// over the lack of targets.
	case v1alpha1.Assigned, v1alpha1.NoTargets:
		l.report.Reason = v1alpha1.Assigned
		if l.noUsable {
			l.report.Reason = v1alpha1.NoTargets
			l.report.Message += "; no node can be a target, so the registered targets stay"
		}
	}
	if len(l.missing) > 0 {
		l.report.Message += "; not registered: " + l.describeMissing()
	}
	l.report.Message += l.unservedNodes()
	if cut := len(l.targets) - used - len(l.missing); cut > 0 {
		l.report.Message += fmt.Sprintf("; %s omitted: the load balancer can have %d targets for each of its %d ports in a zone; "+
			"select nodes with the annotation %starget-node-labels", pluralize(cut, "node"), l.targetLimit().instances, len(l.groups), prefix)
	}
	if len(l.desired.Ignored) > 0 {
		l.report.Message += "; ignored: " + strings.Join(l.desired.Ignored, ", ")
	}
}

func pluralize(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func shortList(names []string) string {
	const most = 3
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
