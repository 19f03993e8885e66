package lab

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// WaitTimeout bounds waits. It is not an expectation: a busy machine is slow.
const WaitTimeout = 3 * time.Minute

// permanentError is an error that waiting does not mend.
type permanentError struct{ error }

// Permanent makes Wait give up at once.
func Permanent(err error) error { return permanentError{err} }

// Wait calls check until it succeeds, and fails with its last error when
// Patience is over.
func Wait(ctx context.Context, what string, check func() error) error {
	const pause = 25 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, WaitTimeout)
	defer cancel()
	for {
		err := check()
		var p permanentError
		if err == nil {
			return nil
		}
		if errors.As(err, &p) {
			return fmt.Errorf("waiting until %s: %w", what, p.error)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w: %w", what, ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}
