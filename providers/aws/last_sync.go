package aws

import (
	"crypto/sha256"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/providers"
)

// memory saves calls: what a Service's balancer was when it was last looked at.
type memory struct {
	digest  [sha256.Size]byte
	due     time.Time // for the next comparison
	looks   int
	status  *corev1.LoadBalancerStatus
	report  providers.Report
	base    string // the report's message, before its targets
	stage   string // and after them
	labels  map[string]string
	most    int  // targets, of a zone or of all
	cross   bool // balances across zones
	backend bool
	vpc     string
	tags    map[string]map[string]string // by ARN
	// shown is since when the Service shows the name of the balancer that
	// replaces another one.
	shown  time.Time
	groups []attached
	chosen []target // the nodes that were to be targets
	// lost are the nodes among them that are none.
	lost       []string
	alone      bool // no node can be a target
	unfinished bool // there is more to do than wait for the balancer
	waits      int  // for AWS, while it is being deleted
	// bad instances were refused by AWS, until then.
	bad map[string]time.Time
}

// attached is a target group and the instances in it.
type attached struct {
	arn       string
	instances []string
}

// clone may be changed while others read the original.
func (m *memory) clone() *memory {
	n := *m
	n.groups, n.bad = slices.Clone(m.groups), maps.Clone(m.bad)
	return &n
}

func (c *Cloud) remembered(uid types.UID) *memory {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[uid]
}

func (c *Cloud) remember(uid types.UID, m *memory) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m == nil {
		delete(c.known, uid)
	} else {
		c.known[uid] = m
	}
}

// forget makes the next look a thorough one: after a failure nobody knows what
// took effect.
func (c *Cloud) forget(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.known[uid]; m != nil {
		m.due, m.tags = time.Time{}, nil
	}
	c.inventory.forget()
}

// keyed is a lock for each Service.
type keyed struct {
	mu    sync.Mutex
	locks map[types.UID]*keyedLock
}

type keyedLock struct {
	sync.Mutex
	users int
}

func (k *keyed) lock(uid types.UID) (unlock func()) {
	k.mu.Lock()
	l := k.locks[uid]
	if l == nil {
		l = &keyedLock{}
		k.locks = put(k.locks, uid, l)
	}
	l.users++
	k.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.locks, uid)
		}
	}
}
