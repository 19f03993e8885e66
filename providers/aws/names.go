package aws

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// Tags on every object of ours. An object without them is never changed or
// deleted, whatever its name.
const (
	tagCluster = "fairlead.io/cluster"
	tagService = "fairlead.io/service"
	tagUID     = "fairlead.io/service-uid"

	// The next ones record what an annotation has set, so that it can be reset
	// when the annotation goes.
	tagTags         = "fairlead.io/tags"         // keys of further tags
	tagAttributes   = "fairlead.io/attributes"   // attributes with their values
	tagCertificates = "fairlead.io/certificates" // digest of the certificates behind the first
	tagAddresses    = "fairlead.io/addresses"    // which the Service requested

	// tagName is shown by AWS's console.
	tagName = "Name"
)

// tagClusterOwned is the tag by which cluster installers find the objects to
// delete with a cluster, and which assigns subnets and security groups to one.
func tagClusterOwned(cluster string) string { return "kubernetes.io/cluster/" + cluster }

// objectNames are those of a cluster's objects in AWS. They follow from the
// cluster's name and the Service's UID, so that a new process finds by prefix
// what another one has created: at most 32 letters, digits and hyphens
// (CreateLoadBalancer, Name).
type objectNames struct {
	prefix string // of every name
}

// newNames derives the prefix from the cluster's name, which must be unique in the
// account.
func newNames(cluster string) objectNames { return objectNames{"fl-" + shortHash(7, cluster) + "-"} }

// shortHash returns the first n characters of a digest in base32, which has
// lower-case letters and digits only. Each character has 5 bits. The separator
// distinguishes lists with the same concatenation.
func shortHash(n int, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:n]
}

// sharedGroup is the name of the security group that all load balancers share.
func (n objectNames) sharedGroup() string { return n.prefix + "backend" }

// firstName is the prefix of all names of a Service's objects, and the name of
// its first load balancer and security group.
func (n objectNames) firstName(uid types.UID) string { return n.prefix + shortHash(10, string(uid)) }

// secondName is the name of the load balancer that replaces the first, and vice
// versa.
func (n objectNames) secondName(uid types.UID) string { return n.firstName(uid) + "-b" }

// securityGroup is the name of the i-th security group of a Service.
func (n objectNames) securityGroup(uid types.UID, i int) string {
	if i == 0 {
		return n.firstName(uid)
	}
	return fmt.Sprintf("%s-%d", n.firstName(uid), i+1)
}

// targetGroup is the name of a target group. It depends on everything that
// cannot be changed in place, and on the load balancer, since a target group
// has only one.
func (n objectNames) targetGroup(uid types.UID, balancer string, t targetGroup) string {
	return n.firstName(uid) + "-" + shortHash(7, balancer, string(t.Protocol), fmt.Sprint(t.Port), string(t.Family))
}

// ofService matches the names of one Service's objects.
func (n objectNames) ofService(uid types.UID) (match func(name string) bool) {
	service := n.firstName(uid)
	return func(name string) bool {
		rest, ok := strings.CutPrefix(name, service)
		return ok && (rest == "" || rest[0] == '-')
	}
}
