package config

import (
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
	if text == "" {
		return nil
	}
	for record := range strings.SplitSeq(text, ",") {
		of, value, ok := strings.Cut(record, "=")
		if a, err := ParseAddr(of); ok && err == nil {
			records = append(records, Record{a, value})
		}
	}
	return records
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
	text, _, _ := strings.Cut(service.Annotations[v1alpha1.AnnotationAllocatedFrom], v1alpha1.AllocationUIDSeparator)
	return ReadRecords(text), v1alpha1.HasOwnAllocation(service)
}

// OwnAllocation returns the records of ReadAllocation if they are the Service's own.
func OwnAllocation(service *corev1.Service) Records {
	if records, own := ReadAllocation(service); own {
		return records
	}
	return nil
}

// RecordedPool returns the pool that a Service's address was assigned from, according
// to the Service's own record; "" without one.
func RecordedPool(service *corev1.Service, addr netip.Addr) string {
	pool, _ := OwnAllocation(service).Of(addr)
	return pool
}

// Recorded reports whether the Service's own record has the address.
func Recorded(service *corev1.Service, addr netip.Addr) bool {
	_, ok := OwnAllocation(service).Of(addr)
	return ok
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
