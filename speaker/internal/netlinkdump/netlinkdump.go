// Package netlinkdump repeats netlink dumps that the kernel has interrupted. It keeps
// nothing in memory.
package netlinkdump

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// maxAttempts bounds the attempts for one dump, so that a caller does not wait forever
// while the kernel's tables change all the time.
const maxAttempts = 5

// Repeat calls dump until it is not interrupted, at most five times, and returns the
// last result and error. The kernel sets NLM_F_DUMP_INTR in a dump of a table that
// changed meanwhile: entries may be missing or duplicate. Each call of dump must
// therefore return a result of its own.
func Repeat[T any](dump func() (T, error)) (result T, err error) {
	for range maxAttempts {
		if result, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return result, err
}
