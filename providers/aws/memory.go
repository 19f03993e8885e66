package aws

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
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

// tell adds the targets to the report, and those that are none.
func (m *memory) tell(instances []instance) {
	m.lost, m.alone = nil, len(instances) == 0
	for _, t := range m.chosen {
		if !slices.ContainsFunc(instances, func(i instance) bool { return i.ID == t.Instance }) || !m.bad[t.Instance].IsZero() {
			m.lost = append(m.lost, t.Node)
		}
	}
	m.say()
}

// say composes the report's message.
func (m *memory) say() {
	used := 0
	if len(m.groups) > 0 {
		used = len(m.groups[0].instances)
	}
	m.report.Message = fmt.Sprintf("%s, %s%s", m.base, plural(used, "target"), m.stage)
	switch m.report.Reason {
	case v1alpha1.Assigned, v1alpha1.NoTargets:
		m.report.Reason = v1alpha1.Assigned
		if m.alone {
			m.report.Reason = v1alpha1.NoTargets
			m.report.Message += "; no node can be a target any more, so the last targets stay"
		}
	}
	if len(m.lost) > 0 {
		m.report.Message += fmt.Sprintf("; no target: %s, whose instances AWS does not know, or does not accept", list(m.lost))
	}
	if cut := len(m.chosen) - used - len(m.lost); cut > 0 {
		m.report.Message += fmt.Sprintf("; %s left out: the balancer can have %d targets for each of its %d ports in a zone; choose with the annotation %starget-node-labels", plural(cut, "node"), m.most, len(m.groups), prefix)
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func list(names []string) string {
	const most = 3
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
