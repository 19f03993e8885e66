package config

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// RecordedPool is the pool that a Service's address was given from, "" where
// there is no record. It is the record that counts for advertisements, not
// what the pool contains today.
func RecordedPool(service *corev1.Service, addr netip.Addr) string {
	pool, _ := recorded(service, addr)
	return pool
}

// Recorded reports whether Fairlead gave the address to the Service.
func Recorded(service *corev1.Service, addr netip.Addr) bool {
	_, ok := recorded(service, addr)
	return ok
}

func recorded(service *corev1.Service, addr netip.Addr) (pool string, ok bool) {
	for record := range strings.SplitSeq(service.Annotations[v1alpha1.AnnotationAllocatedFrom], ",") {
		text, pool, ok := strings.Cut(record, "=")
		if !ok {
			continue
		}
		if of, err := netip.ParseAddr(text); err == nil && of == addr {
			return pool, true
		}
	}
	return "", false
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
