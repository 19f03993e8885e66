package lab

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// WaitTimeout bounds Wait. It is generous, because a busy machine is slow.
const WaitTimeout = 3 * time.Minute

// permanentError is an error that Wait does not retry.
type permanentError struct{ error }

// Permanent returns an error that makes Wait return immediately.
func Permanent(err error) error { return permanentError{err} }

// Wait calls check until it succeeds. It returns the last error of check when ctx
// ends or after WaitTimeout.
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
