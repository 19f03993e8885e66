package lab_test

import (
	"testing"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// TestCauses checks that each lost request has one cause.
func TestCauses(t *testing.T) {
	for want, report := range map[string]lab.StreamReport{
		"":                                      {Sent: 9},
		"2 reset":                               {Sent: 9, Lost: 2, Broken: 2},
		"1 reset, 3 timed out":                  {Sent: 9, Lost: 4, Broken: 1, TimedOut: 3},
		"2 refused or unreachable":              {Sent: 9, Lost: 2},
		"1 timed out, 1 refused or unreachable": {Sent: 9, Lost: 2, TimedOut: 1},
	} {
		if got := report.Causes(); got != want {
			t.Errorf("%+v: %q, want %q", report, got, want)
		}
	}
}
