package aws

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// Tags on everything that is made. An object without them is never changed or
// deleted, whatever its name.
const (
	tagCluster = "fairlead.io/cluster"
	tagService = "fairlead.io/service"
	tagUID     = "fairlead.io/service-uid"

	// The next ones record what was set because an annotation said so, so that
	// it can be taken back when the annotation goes.
	tagTags         = "fairlead.io/tags"         // keys of further tags
	tagAttributes   = "fairlead.io/attributes"   // attributes with their values
	tagCertificates = "fairlead.io/certificates" // digest of the certificates behind the first
	tagAddresses    = "fairlead.io/addresses"    // those that were asked for

	// tagName is what the console of AWS shows.
	tagName = "Name"
)

// tagClusterOwned is the tag by which cluster installers find what to delete
// with a cluster, and by which subnets and security groups are a cluster's.
func tagClusterOwned(cluster string) string { return "kubernetes.io/cluster/" + cluster }

// names are those of a cluster's objects in AWS. They follow from the
// cluster's name and the Service's UID, so that a process without memory finds
// what another one has made, by prefix: at most 32 letters, digits and hyphens
// (CreateLoadBalancer, Name).
type names struct{ cluster string }

func short(n int, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:n]
}

// all is the prefix of every name of the cluster's.
func (n names) all() string { return "fl-" + short(7, n.cluster) + "-" }

// backend is the name of the security group that all balancers share.
func (n names) backend() string { return n.all() + "backend" }

// service is the prefix of all names of a Service's objects, and the name of
// its first balancer and security group.
func (n names) service(uid types.UID) string { return n.all() + short(10, string(uid)) }

// second is the name of the balancer that replaces the first, and the other
// way round.
func (n names) second(uid types.UID) string { return n.service(uid) + "-b" }

// securityGroup is the name of the i-th security group of a Service.
func (n names) securityGroup(uid types.UID, i int) string {
	if i == 0 {
		return n.service(uid)
	}
	return fmt.Sprintf("%s-%d", n.service(uid), i+1)
}

// targetGroup is the name of a target group. What cannot be changed in place
// is part of it, and so is the balancer, since a target group has only one.
func (n names) targetGroup(uid types.UID, balancer string, t targetGroup) string {
	return n.service(uid) + "-" + short(7, balancer, string(t.Protocol), fmt.Sprint(t.Port), string(t.Family))
}

// of reports whether a name is one of a Service's.
func (n names) of(uid types.UID, name string) bool {
	rest, ok := strings.CutPrefix(name, n.service(uid))
	return ok && (rest == "" || rest[0] == '-')
}
