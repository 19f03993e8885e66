// Package allocator decides which address each Service gets: one pure function
// over all pools and all Services. It does not enumerate pools: its cost depends on
// the number of Services and ranges only, and is O(n log n) in both.
//
// The files: pools.go prepares what depends on the pools only; plan.go has the state of
// a decision, plan_keep.go keeps the addresses that are held, plan_pending.go grants
// requests for other addresses, plan_release.go retries them when an address is
// released, and plan_refuse.go explains refusals; plan_share.go and plan_tables.go decide
// which addresses can be shared.
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

// FamilyOf returns the family of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// String returns "IPv4" or "IPv6", as in Service spec.ipFamilies.
func (f Family) String() string {
	if f == IPv4 {
		return "IPv4"
	}
	return "IPv6"
}

// Pool is a set of addresses.
type Pool struct {
	Name          string
	Ranges        []netipx.IPRange // sorted, and disjoint from all ranges of all pools
	Reserved      []Reserved       // not assigned, but kept if they are held
	AvoidBuggyIPs bool             // does not assign IPv4 addresses that end in .0 or .255
	Auto          bool             // assigns addresses to requests that do not request it by name
	Closed        bool             // does not assign addresses; those that are held are kept
	Advertised    bool             // an advertisement covers it
}

// Reserved are addresses that no pool assigns.
type Reserved struct {
	netipx.IPRange
	Why  string // "is an address of Node n1"
	Used bool   // the cluster itself uses them: they are not adopted either
}

// Role determines whether a request keeps the addresses in its Have.
type Role uint8

const (
	// Owner is served from pools. It keeps the addresses in its Have as far as their
	// Evidence allows.
	Owner Role = iota
	// Stranger is served by another controller. Its addresses are not assigned to
	// others, and no addresses are assigned to it.
	Stranger
	// Deleted is being deleted. Until its addresses are released, they are assigned only to
	// a request whose record has them.
	Deleted
	// ExternalIPs has the spec.externalIPs of a Service in its Have. They are not
	// assigned automatically as long as a pool has other free addresses. They are
	// not reserved, and a request by name may be granted one.
	ExternalIPs
)

// Evidence is what proves that an address is assigned to a request, strongest first.
// An address with weaker evidence is never kept at the expense of a request with
// stronger evidence for the same address.
type Evidence uint8

const (
	// RecordedAndShown: the request's own record and its status have the address. It
	// is kept even if the pools change.
	RecordedAndShown Evidence = iota
	// Recorded: the own record has the address, and the status has lost it. It is
	// kept if a pool that selects the request contains it, which bounds what a forged
	// record can obtain.
	Recorded
	// ShownByController: the status has it, the record was lost, and the controller
	// is the last one that wrote the status, as far as can be known. It is kept even
	// if the pools have changed.
	ShownByController
	// Shown: only the status has it, and another controller may have written it. It
	// is kept if a pool that selects the request contains it. Without evidence for
	// other addresses, the request keeps all of its addresses or none: then the
	// status is left to the controller that wrote it.
	Shown
)

// Request is the desired and the observed state of a Service.
type Request struct {
	Key      types.NamespacedName
	Since    time.Time // the oldest has precedence
	Role     Role
	Frozen   bool         // keeps its addresses, and no new ones are assigned
	Families []Want       // one address of each
	Pools    []string     // that it may use, in order of preference
	Selected []string     // pools that select it, if Pools was reduced to one that it requests
	Barred   []string     // that it must not use, because they do not select it
	Pinned   bool         // requests one of Pools by name: may use it without Auto, and moves there
	Addrs    []netip.Addr // requested by name, at most one of each family
	Have     []Have       // in the status or in the own record
	Prefer   []netip.Addr // assigned if they are free; from the record of another Service
	Release  []netip.Addr // addresses that it must not hold
	Renumber bool         // keeps an address that is replaced alongside the new one
	Share    Terms
	Departed bool // Share differs from the terms under which it holds its addresses
}

// Want requests an address of a family.
type Want struct {
	Family   Family
	Optional bool // not a failure if it has an address of the other family
}

// Have is an address that may be assigned to the request already.
type Have struct {
	Addr     netip.Addr
	Pool     string // recorded when the address was assigned; "" without a record
	Leaving  bool   // was replaced by another address
	Evidence Evidence
}

// Held is an address that is assigned to a request.
type Held struct {
	Addr       netip.Addr
	Pool       string // the record to write; "" if no pool is recorded or contains it
	OutOfPool  bool   // kept although the pool no longer contains it
	Unselected bool   // kept although the pool no longer selects the request
	Leaving    bool   // kept alongside its replacement
}

// Missing is a requested address that could not be assigned.
type Missing struct {
	Family Family
	v1alpha1.Refusal
	Optional bool // not a failure
}

// Assignment is the result for a request. A request that holds an address of a
// family keeps it if another one that it requests by name is refused.
type Assignment struct {
	Held    []Held       // IPv4 first; within a family the one that is leaving first
	Missing []Missing    // IPv4 first
	GivesUp []netip.Addr // addresses of Have that are released, with or without a replacement
}

// Usage counts the addresses of a pool, by family, IPv4 first.
type Usage struct {
	Capacity [2]*big.Int // assignable addresses
	Used     [2]int64    // held addresses
	Free     [2]*big.Int // addresses that can still be assigned; 0 if the pool is closed
}

// Result is the decision for all requests.
type Result struct {
	Assignments []Assignment // in the order of the requests
	Pools       []Usage      // in the order of the pools
}

// TraceEntry explains why a pool, or a held address, is or is not used for a request.
type TraceEntry struct {
	Family  Family
	Pool    string
	Used    bool
	Message string
}

// Allocate decides for all requests at once, in three steps, each of them oldest
// first. Held addresses are kept; then addresses that are requested by name are
// assigned; then any address: one that the request may share, or the lowest free one
// of the most preferred pool. Addresses that the last two steps release are assigned
// to requests that were refused before. Allocate is idempotent: with its result as
// the input, the result is the same.
//
// The slices of a Result share memory and must not be appended to. Its counts belong
// to the Pools and must not be changed.
func Allocate(pools *Pools, requests []Request) Result {
	return new(Allocator).Allocate(pools, requests)
}

// Explain runs Allocate, and returns the pools and addresses that it considered for
// one request, in order.
func Explain(pools *Pools, requests []Request, key types.NamespacedName) []TraceEntry {
	r := newRun(&runMemory{}, pools, requests)
	r.traced = &key
	r.allocateAll()
	return r.trace
}

// Allocator allocates repeatedly, and reuses the memory of the last result.
// The zero value is ready for use. It must not be used concurrently.
type Allocator struct {
	memory runMemory
	last   *run // nil if there is nothing to extend
}

// Allocate returns what the function Allocate returns. The requests must not be
// changed before the next call.
func (a *Allocator) Allocate(pools *Pools, requests []Request) Result {
	a.memory.dropRequests()
	a.last = newRun(&a.memory, pools, requests)
	return Result{a.last.allocateAll(), a.last.poolUsage()}
}

// MustBeReleased reports whether a request had the address in its status before the last
// Allocate, and does not keep it. Until the next Allocate, that status must be assumed
// to have it: the write that releases the address may have failed.
func (a *Allocator) MustBeReleased(addr netip.Addr) bool { return a.last == nil || a.last.losing[addr] }

// Extend decides for a request in addition to those of the last Allocate and Extend,
// which keep their addresses. It is ok if the request neither holds nor shares
// addresses, and all families it requests could be assigned other addresses than those
// that a request of the last Allocate was to lose: Allocate would then
// return the same for all requests together. Otherwise Allocate must be called next.
func (a *Allocator) Extend(request *Request) (assignment Assignment, ok bool) {
	// A request that holds addresses can release one, and one that shares can
	// change which addresses others may join: both affect requests that were
	// decided before.
	plain := request.Role == Owner && !request.Frozen && len(request.Have) == 0 && len(request.Prefer) == 0 && request.Share.Key == ""
	if a.last == nil || !plain {
		return Assignment{}, false
	}
	c := &candidate{Request: request}
	for _, w := range request.Families {
		// The new request releases nothing, so a request that was refused before
		// cannot be granted now: those that wait are not retried.
		_, byName := c.requestedAddr(w.Family)
		granted := a.last.tryGrant(&pendingRequest{candidate: c, Want: w, byName: byName})
		held := *a.last.heldOf(c, familyIndex(w.Family))
		if !granted || a.MustBeReleased(held.Addr) {
			a.last = nil // a part may have been granted
			return Assignment{}, false
		}
		assignment.Held = append(assignment.Held, held)
	}
	slices.SortFunc(assignment.Held, func(a, b Held) int { return cmp.Compare(familyIndex(FamilyOf(a.Addr)), familyIndex(FamilyOf(b.Addr))) })
	return assignment, true
}
