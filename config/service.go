package config

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Records are what one of the controller's annotations says about addresses.
type Records []Record

// Record is what is recorded about one address.
type Record struct {
	Addr  netip.Addr
	Value string
}

// ReadRecords reads "ADDRESS=VALUE", comma-separated, and leaves out what is
// none: only the controller writes them.
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

// Of is what is recorded about the address.
func (r Records) Of(addr netip.Addr) (value string, ok bool) {
	for _, record := range r {
		if record.Addr == addr {
			return record.Value, true
		}
	}
	return "", false
}

// RecordedPool is the pool that a Service's address was given from, "" where
// there is no record. It is the record that counts for advertisements, not
// what the pool contains today.
func RecordedPool(service *corev1.Service, addr netip.Addr) string {
	pool, _ := ReadRecords(service.Annotations[v1alpha1.AnnotationAllocatedFrom]).Of(addr)
	return pool
}

// Recorded reports whether Fairlead gave the address to the Service.
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
