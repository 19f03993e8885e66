package bfd

import (
	"testing"
	"time"
)

func TestStretch(t *testing.T) {
	for _, test := range []struct {
		sessions       int
		interval, want time.Duration
	}{
		{0, 50 * ms, 50 * ms},
		{1, 50 * ms, 50 * ms},
		{100, 50 * ms, 50 * ms},
		{100, 10 * ms, 10 * ms},
		{101, 10 * ms, 50500 * time.Microsecond},
		{200, 50 * ms, 100 * ms},
		{200, 300 * ms, 300 * ms},
		{1000, 50 * ms, 500 * ms},
		{5000, 50 * ms, 2500 * ms},
	} {
		if got := Stretch(test.sessions, test.interval); got != test.want {
			t.Errorf("%d sessions at %s: %s, want %s", test.sessions, test.interval, got, test.want)
		}
	}
}
