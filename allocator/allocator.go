// Package allocator decides which address each Service gets: one pure function
// over all pools and all Services. It enumerates no pool, so that its cost
// depends on the number of Services and ranges only. Twice as many of them take
// little more than twice the time, whatever they ask for.
//
// The files: pools.go prepares what depends on the pools only; plan.go has the
// holders keep their addresses, plan_pending.go grants what else is asked for,
// plan_release.go finds those that a release helps, and plan_refuse.go says why
// something is not granted; plan_share.go and plan_tables.go know which
// addresses can be shared.
package allocator

import (
	"cmp"
	"math/big"
	"net/netip"
	"slices"
	"time"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Family is an address family.
type Family uint8

// The two address families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf is the family of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// String is "IPv4" or "IPv6", as in Service spec.ipFamilies.
func (f Family) String() string {
	if f == IPv4 {
		return "IPv4"
	}
	return "IPv6"
}

// Pool is a set of addresses.
type Pool struct {
	Name          string
	Ranges        []netipx.IPRange // sorted, disjoint, also from those of other pools
	Reserved      []Reserved       // never assigned; what is held already is kept
	AvoidBuggyIPs bool             // nor are IPv4 addresses that end in .0 or .255
	Auto          bool             // assigns addresses to requests that do not pin it
	Closed        bool             // assigns no new addresses; what is held is kept
}

// Reserved are addresses that no pool assigns.
type Reserved struct {
	netipx.IPRange
	Why string // "is an address of Node n1"
}

// Role is the right by which a request holds the addresses of its Have.
type Role uint8

const (
	// Owner holds what it has, whatever happens to the pools.
	Owner Role = iota
	// Adopter comes from another implementation: it holds what it has only if all
	// of it is in pools, and no other has it except those with which it may share
	// it. What is to be released does not count.
	Adopter
	// Stranger is served by another controller: its addresses are not assigned to
	// others, and it is assigned nothing.
	Stranger
)

// Request is what one Service asks for and has.
type Request struct {
	Key      types.NamespacedName
	Since    time.Time // older first
	Role     Role
	Frozen   bool         // keeps what it has, gets nothing new
	Families []Want       // one address of each
	Pools    []string     // may use these, most preferred first
	Barred   []string     // may not use these, which select other requests
	Pinned   bool         // asks for one of Pools by name: may use it without Auto, and moves there
	Addrs    []netip.Addr // asks for these addresses, at most one of each family
	Have     []Have       // in the status now
	Release  []netip.Addr // must not hold these
	Renumber bool         // keeps an address that is replaced alongside the new one
	Share    Terms
	Departed bool // Share is not what the request held its addresses by until now
}

// Want asks for one address of a family.
type Want struct {
	Family   Family
	Optional bool // going without is no failure, while there is an address of the other family
}

// Have is an address that the request's status shows.
type Have struct {
	Addr    netip.Addr
	Pool    string // as recorded when it was assigned; "" where no record exists
	Leaving bool   // another one has replaced it
}

// Held is an address that a request holds from now on.
type Held struct {
	Addr       netip.Addr
	Pool       string // recorded, or the one that contains it; "" where there is neither
	OutOfPool  bool   // kept although that pool does not contain it any more
	Unselected bool   // kept although that pool does not select the request any more
	Leaving    bool   // kept alongside the one that has replaced it
}

// Missing is an address that a request asks for and did not get.
type Missing struct {
	Family Family
	v1alpha1.Refusal
	Optional bool // it can do without
}

// Assignment is what a request holds, and what it was refused. A request that
// holds an address of a family and was refused another one, which it asked for
// by name, keeps the old one.
type Assignment struct {
	Held    []Held       // IPv4 first, and of a family the one that is leaving first
	Missing []Missing    // IPv4 first
	GivesUp []netip.Addr // of Have: not kept, whatever comes in their place
}

// Usage counts the addresses of a pool, by family, IPv4 first.
type Usage struct {
	Capacity [2]*big.Int // can be assigned
	Used     [2]int64    // are held
	Free     [2]*big.Int // can still be assigned; of a closed pool none
}

// Result is a decision about all requests.
type Result struct {
	Assignments []Assignment // as the requests came
	Pools       []Usage      // as the pools came
}

// TraceEntry says why one pool, or one held address, is used for a request or is not.
type TraceEntry struct {
	Family  Family
	Pool    string
	Used    bool
	Message string
}

// Allocate decides for all requests at once, in three steps, each oldest first:
// holders keep what they have, then addresses that are asked for by name, then
// any address: one that the request may share, or the lowest free one of the
// most preferred pool. What the last two steps release is granted to those that
// were refused before, so that the answer is final: asked again with what it
// answered, Allocate answers the same.
//
// The slices of a Result must not be appended to: they share memory. Its
// counts belong to the Pools and must not be changed.
func Allocate(pools *Pools, requests []Request) Result {
	return new(Allocator).Allocate(pools, requests)
}

// Explain is Allocate, watched from one request: the pools and addresses in the
// order in which they were considered.
func Explain(pools *Pools, requests []Request, key types.NamespacedName) []TraceEntry {
	r := newRun(&runMemory{}, pools, requests)
	r.traced = &key
	r.allocateAll()
	return r.trace
}

// Allocator allocates repeatedly, and reuses the memory of the last decision.
// The zero value is ready for use. It must not be used concurrently.
type Allocator struct {
	memory runMemory
	last   *run // nil: there is nothing to extend
}

// Allocate returns what the function Allocate returns. The requests must not be
// changed before the next call.
func (a *Allocator) Allocate(pools *Pools, requests []Request) Result {
	a.memory.dropRequests()
	a.last = newRun(&a.memory, pools, requests)
	return Result{a.last.allocateAll(), a.last.poolUsage()}
}

// Extend decides for a request in addition to those of the last Allocate and
// Extend, which keep what they were assigned. It is ok if the request holds
// nothing and shares nothing, and gets an address of each family that it asks for:
// then Allocate decides the same for all of them together. Otherwise only Allocate
// can decide, and must be called next.
func (a *Allocator) Extend(request *Request) (assignment Assignment, ok bool) {
	plain := request.Role == Owner && !request.Frozen && len(request.Have) == 0 && request.Share.Key == ""
	if a.last == nil || !plain {
		return Assignment{}, false
	}
	c := &candidate{Request: request}
	for _, w := range request.Families {
		_, byName := c.requestedAddr(w.Family)
		if !a.last.tryGrant(&pendingRequest{candidate: c, Want: w, byName: byName}) {
			a.last = nil // a part may have been granted
			return Assignment{}, false
		}
		assignment.Held = append(assignment.Held, *a.last.heldOf(c, familyIndex(w.Family)))
	}
	slices.SortFunc(assignment.Held, func(a, b Held) int { return cmp.Compare(familyIndex(FamilyOf(a.Addr)), familyIndex(FamilyOf(b.Addr))) })
	return assignment, true
}
