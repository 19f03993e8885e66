package aws

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// unownedObject has one of a Service's names, but not both tags that identify its
// objects. The IAM policy forbids changing it without the cluster's tag.
type unownedObject struct {
	kind, id string // id is the ARN, or the ID of a security group
	tags     map[string]string
}

// ownsObject reports whether the tags are those of an object of this Service.
func (r *reconciler) ownsObject(tags map[string]string) bool {
	return tags[tagCluster] == r.options.Cluster && tags[tagUID] == string(r.svc.UID)
}

// separateUnowned moves the load balancers, target groups and listeners that the
// Service does not own out of the observed stack. A foreign listener of its load
// balancer is ignored, except on a desired port.
func (r *reconciler) separateUnowned() {
	o := &r.observed
	for arn, l := range o.listeners {
		if r.ownsObject(o.tags[arn]) {
			continue
		}
		delete(o.listeners, arn)
		u := unownedObject{"listener", arn, o.tags[arn]}
		if u.isMarked(ownTags(r.options.Cluster, r.svc)) || r.result != nil && r.result.desired.hasPort(aws.ToInt32(l.Port)) {
			o.unowned = append(o.unowned, u)
		}
	}
	for _, b := range o.balancers {
		if arn := aws.ToString(b.LoadBalancerArn); !r.ownsObject(o.tags[arn]) {
			o.unowned = append(o.unowned, unownedObject{"load balancer", arn, o.tags[arn]})
		}
	}
	for _, g := range o.groups {
		if arn := aws.ToString(g.TargetGroupArn); !r.ownsObject(o.tags[arn]) {
			o.unowned = append(o.unowned, unownedObject{"target group", arn, o.tags[arn]})
		}
	}
	o.keepTagged(r.ownsObject)
}

// hasPort reports whether the stack has a listener on a port.
func (s stack) hasPort(port int32) bool {
	return slices.ContainsFunc(s.Listeners, func(l listener) bool { return l.Port == port })
}

// refuseUnowned returns a Refusal for the objects with the Service's names that must
// not be changed, nil if there are none.
func (r *reconciler) refuseUnowned() *v1alpha1.Refusal {
	if refusal := r.refuseUntagged(); refusal != nil || len(r.observed.unowned) == 0 {
		return refusal
	}
	return nameTaken(r.observed.unowned, ownTags(r.options.Cluster, r.svc))
}

// refuseUntagged is refuseUnowned for the objects that have lost a tag. Deletion leaves
// out the others, which are foreign.
func (r *reconciler) refuseUntagged() *v1alpha1.Refusal {
	own := ownTags(r.options.Cluster, r.svc)
	untagged := slices.Clone(r.observed.unowned)
	untagged = slices.DeleteFunc(untagged, func(o unownedObject) bool { return !o.isMarked(own) })
	if len(untagged) == 0 {
		return nil
	}
	return nameTaken(untagged, own)
}

// isMarked reports whether an object with one of our names has any of our tags, and no
// tag of another Service.
func (o unownedObject) isMarked(own map[string]string) bool {
	if uid := o.tags[tagUID]; uid != "" && uid != own[tagUID] {
		return false
	}
	for k, v := range own {
		if o.tags[k] == v {
			return true
		}
	}
	return false
}

// maxRepaired is how many objects the command of a message repairs, since the length
// of a message is limited. The next message has the others.
const maxRepaired = 10

// nameTaken returns the Refusal of objects with our names. It has the command that
// restores the tags of the first one, and of others of the same API that lack the same
// tags.
func nameTaken(all []unownedObject, own map[string]string) *v1alpha1.Refusal {
	slices.SortFunc(all, func(a, b unownedObject) int {
		return cmp.Or(strings.Compare(a.kind, b.kind), strings.Compare(a.id, b.id))
	})
	first := all[0]
	if !first.isMarked(own) {
		return newRefusal(v1alpha1.NameTaken,
			"%s %s exists without the tags of this controller and is not changed: delete it", first.kind, first.id)
	}
	missing, arguments := first.missingTags(own)
	var ids []string
	for _, o := range all {
		if other, _ := o.missingTags(own); other == missing && o.repair() == first.repair() && len(ids) < maxRepaired {
			ids = append(ids, o.id)
		}
	}
	return newRefusal(v1alpha1.NameTaken,
		"%s %s does not have %s, so that it is neither changed nor deleted; restore the tag: aws %s %s --tags %s",
		first.kind, first.id, missing, first.repair(), strings.Join(ids, " "), arguments)
}

// missingTags returns the tags that identify an object and that this one lacks: for a
// message, and as arguments of a command.
func (o unownedObject) missingTags(own map[string]string) (text, arguments string) {
	var texts, pairs []string
	for _, k := range []string{tagCluster, tagUID} {
		if v := own[k]; v != "" && o.tags[k] != v {
			texts, pairs = append(texts, "the tag "+k+"="+v), append(pairs, fmt.Sprintf("Key=%s,Value=%s", k, v))
		}
	}
	return strings.Join(texts, " and "), strings.Join(pairs, " ")
}

// repair returns the subcommand of the AWS CLI that sets tags.
func (o unownedObject) repair() string {
	if strings.HasPrefix(o.id, "sg-") {
		return "ec2 create-tags --resources"
	}
	return "elbv2 add-tags --resource-arns"
}
