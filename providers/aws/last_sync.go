package aws

import (
	"maps"
	"slices"
	"time"

	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/providers"
)

// lastSync is the result of the last successful sync of a Service's stack. It
// only saves calls. It does not change while it is stored, except that
// invalidate makes a comparison due.
type lastSync struct {
	desired stack        // of a stack that this process did not apply, only what targets depend on
	targets []nodeTarget // the desired ones
	due     time.Time    // when the stack must be compared with AWS
	syncs   int          // of the whole stack, before this one
	vpc     string
	tags    map[string]map[string]string // by ARN
	groups  []targetRegistration
	// refused are the instances that AWS has refused, and until when they are
	// not registered.
	refused  map[string]time.Time
	unusable map[string]string // why instances among the targets cannot be registered
	// shown is since when the Service's status has the name of the load balancer
	// that replaces another one.
	shown time.Time
	// incomplete: a load balancer is being replaced, so that the whole stack must be
	// synced again.
	incomplete bool
	left       []string // superfluous objects that are still in use
	leftSyncs  int      // syncs in a row that have left some
	deletions  int      // attempts after which AWS still used something
	users      groupUsers

	status   *corev1.LoadBalancerStatus
	report   providers.Report
	subject  string          // the part of the report's message before the targets
	progress string          // the part after the targets
	missing  []missingTarget // of the desired targets
	noUsable bool            // none of the nodes can be a target
	// zones are those of the load balancer's subnets, none if AWS did not return
	// them, and nodesIn the number of target instances in each zone.
	zones   []string
	nodesIn map[string]int
}

// targetRegistration is a target group and the instances registered with it.
type targetRegistration struct {
	arn       string
	instances []string
	foreign   []elb.TargetDescription // with another port, registered by others
}

// missingTarget is a node that is not registered.
type missingTarget struct {
	node, cause string
}

// clone returns a copy that can be changed while others read the original.
func (l *lastSync) clone() *lastSync {
	n := *l
	n.groups, n.refused = slices.Clone(l.groups), maps.Clone(l.refused)
	// A sync registers and deregisters instances in place.
	for i := range n.groups {
		n.groups[i].instances = slices.Clone(n.groups[i].instances)
	}
	return &n
}

// targetLimit returns how many targets the load balancer can have.
func (l *lastSync) targetLimit() targetLimit { return l.desired.targetLimit(len(l.groups)) }

// lockService waits until no other sync of the Service runs.
// The methods may be called concurrently for one Service: after its own changes,
// and after those of nodes. Other Services are not delayed.
func (c *Cloud) lockService(uid types.UID) (unlock func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.locked[uid] {
		c.unlocked.Wait()
	}
	c.locked[uid] = true
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.locked, uid)
		c.unlocked.Broadcast()
	}
}

// lastSyncOf returns the last sync of a Service, nil if there is none.
func (c *Cloud) lastSyncOf(uid types.UID) *lastSync {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lastSyncs[uid]
}

// storeSync replaces the last sync of a Service; nil removes it.
func (c *Cloud) storeSync(uid types.UID, l *lastSync) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l == nil {
		delete(c.lastSyncs, uid)
	} else {
		c.lastSyncs[uid] = l
	}
}

// recordResult records whether the last sync or deletion of a Service failed.
func (c *Cloud) recordResult(uid types.UID, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.unfinished = put(c.unfinished, uid, true)
	} else {
		delete(c.unfinished, uid)
	}
}

// isUnfinished reports whether the last sync or deletion of a Service failed.
func (c *Cloud) isUnfinished(uid types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unfinished[uid]
}

// invalidateSync makes the next sync read everything: after a failure it is not
// known what took effect.
func (c *Cloud) invalidateSync(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.lastSyncs[uid]; l != nil {
		// Tags from before a change that failed halfway would hide what it had set,
		// if it is reverted. Registered targets are read again by the next sync of
		// the stack.
		l.due, l.tags = time.Time{}, nil
	}
	c.invalidateLists()
}
