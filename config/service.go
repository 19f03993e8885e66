package config

import (
	"iter"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Records are parsed from an annotation that the controller writes.
type Records []Record

// Record is the value that is recorded for an address.
type Record struct {
	Addr  netip.Addr
	Value string
}

// ReadRecords parses "ADDRESS=VALUE", comma-separated. It ignores what is invalid.
func ReadRecords(text string) (records Records) {
	for r := range parseRecords(text) {
		records = append(records, r)
	}
	return records
}

// parseRecords yields the valid records of the text, without allocating for them.
func parseRecords(text string) iter.Seq[Record] {
	return func(yield func(Record) bool) {
		for text != "" {
			var record string
			record, text, _ = strings.Cut(text, ",")
			of, value, ok := strings.Cut(record, "=")
			if a, err := ParseAddr(of); ok && err == nil && !yield(Record{a, value}) {
				return
			}
		}
	}
}

// Of returns the value that is recorded for the address.
func (r Records) Of(addr netip.Addr) (value string, ok bool) {
	for _, record := range r {
		if record.Addr == addr {
			return record.Value, true
		}
	}
	return "", false
}

// FormatAllocation returns the value of the annotation fairlead.io/allocated-from:
// "ADDRESS=POOL", comma-separated, and "uid=UID" of the Service at the end. It is ""
// without addresses.
func FormatAllocation(records Records, uid types.UID) string {
	if len(records) == 0 {
		return ""
	}
	var text strings.Builder
	for i, r := range records {
		if i > 0 {
			text.WriteByte(',')
		}
		text.WriteString(r.Addr.String() + "=" + r.Value)
	}
	return text.String() + v1alpha1.AllocationUIDSeparator + string(uid)
}

// ReadAllocation returns the addresses in the Service's allocation record with the
// pools that they were assigned from. The record is the Service's own if it has the
// Service's UID: only then does it prove that Fairlead assigned the addresses to
// this Service. A copied or restored Service carries the record of another one.
func ReadAllocation(service *corev1.Service) (records Records, own bool) {
	text, own := allocationText(service)
	return ReadRecords(text), own
}

// allocationText returns the records in the annotation fairlead.io/allocated-from, and
// whether they are the Service's own.
func allocationText(service *corev1.Service) (text string, own bool) {
	text, _, _ = strings.Cut(service.Annotations[v1alpha1.AnnotationAllocatedFrom], v1alpha1.AllocationUIDSeparator)
	return text, v1alpha1.HasOwnAllocation(service)
}

// OwnAllocation returns the records of ReadAllocation if they are the Service's own.
func OwnAllocation(service *corev1.Service) Records {
	if records, own := ReadAllocation(service); own {
		return records
	}
	return nil
}

// OwnRecord returns the pool that a Service's address was assigned from, according to
// the Service's own record, and whether that has the address. It does not allocate,
// because the speakers call it for every address in every sync.
func OwnRecord(service *corev1.Service, addr netip.Addr) (pool string, recorded bool) {
	text, own := allocationText(service)
	if !own {
		return "", false
	}
	for r := range parseRecords(text) {
		if r.Addr == addr {
			return r.Value, true
		}
	}
	return "", false
}

// RecordedPool returns the pool of OwnRecord; "" without a record.
func RecordedPool(service *corev1.Service, addr netip.Addr) string {
	pool, _ := OwnRecord(service, addr)
	return pool
}

// Recorded reports whether the Service's own record has the address.
func Recorded(service *corev1.Service, addr netip.Addr) bool {
	_, recorded := OwnRecord(service, addr)
	return recorded
}

// NodeReady reports whether the node's condition Ready is True.
func NodeReady(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// maxNodeAddresses bounds the addresses of a family that are a node's own: a
// compromised node must not be able to end the announcement of any number of
// addresses.
const maxNodeAddresses = 4

// NodeAddresses returns the node's own addresses, which are never announced for a
// Service: the first four of each family in status.addresses. ignored is the number
// of further ones.
func NodeAddresses(node *corev1.Node) (addrs []netip.Addr, ignored int) {
	var count [2]int // by family
	for _, reported := range node.Status.Addresses {
		a, err := ParseAddr(reported.Address)
		if err != nil || slices.Contains(addrs, a) {
			continue
		}
		family := 0
		if a.Is6() {
			family = 1
		}
		if count[family] == maxNodeAddresses {
			ignored++
			continue
		}
		count[family]++
		addrs = append(addrs, a)
	}
	return addrs, ignored
}
