package config

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Records are parsed from an annotation that the controller writes.
type Records []Record

// Record is the value that is recorded for an address.
type Record struct {
	Addr  netip.Addr
	Value string
}

// ReadRecords parses "ADDRESS=VALUE", comma-separated. It ignores invalid records,
// because only the controller writes them.
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

// RecordedPool returns the pool that a Service's address was assigned from, "" without
// a record. Advertisements match the recorded pool, even if the pool no
// longer contains the address.
func RecordedPool(service *corev1.Service, addr netip.Addr) string {
	pool, _ := ReadRecords(service.Annotations[v1alpha1.AnnotationAllocatedFrom]).Of(addr)
	return pool
}

// Recorded reports whether the controller has assigned the address to the Service.
func Recorded(service *corev1.Service, addr netip.Addr) bool {
	_, ok := ReadRecords(service.Annotations[v1alpha1.AnnotationAllocatedFrom]).Of(addr)
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
