package netlinkdump_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/fairlead-io/fairlead/speaker/internal/netlinkdump"
)

// TestRepeat checks how often a dump is repeated, and that the result of an interrupted
// one is not returned if another was complete.
func TestRepeat(t *testing.T) {
	failed := errors.New("failed")
	for _, tt := range []struct {
		name        string
		interrupted int   // dumps that are interrupted
		then        error // of the next dump
		calls       int
		err         error
	}{
		{"complete", 0, nil, 1, nil},
		{"interrupted once", 1, nil, 2, nil},
		{"interrupted four times", 4, nil, 5, nil},
		{"interrupted always", 100, nil, 5, netlink.ErrDumpInterrupted},
		{"failed", 0, failed, 1, failed},
		{"interrupted, then failed", 1, failed, 2, failed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			calls := 0
			got, err := netlinkdump.Repeat(func() (int, error) {
				calls++
				if calls <= tt.interrupted {
					return calls, fmt.Errorf("list: %w", netlink.ErrDumpInterrupted)
				}
				return calls, tt.then
			})
			if calls != tt.calls || got != tt.calls || !errors.Is(err, tt.err) {
				t.Errorf("%d calls, result %d, error %v; want %d calls, the last one's result, error %v", calls, got, err, tt.calls, tt.err)
			}
		})
	}
}
