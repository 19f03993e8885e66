package main

import (
	"strings"
	"testing"
)

// TestMetricsAddress checks which values of the flag are valid, and which disable the
// metrics.
func TestMetricsAddress(t *testing.T) {
	for address, serves := range map[string]bool{":10268": true, "192.0.2.1:10268": true, "[2001:db8::1]:1": true, "0": false, "": false} {
		f := flags{node: "n", metrics: address}
		if err := f.validate(); err != nil || f.servesMetrics() != serves {
			t.Errorf("%q: serves %t, %v", address, f.servesMetrics(), err)
		}
	}
	for _, address := range []string{"10268", "localhost:10268", "192.0.2.1", ":0", ":65536", ":https", "192.0.2.0/24:80", ":1:2"} {
		f := flags{node: "n", metrics: address}
		if err := f.validate(); err == nil || !strings.Contains(err.Error(), "--metrics-address=") {
			t.Errorf("%q: got %v", address, err)
		}
	}
}
