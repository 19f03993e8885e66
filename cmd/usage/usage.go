// Package usage distinguishes invalid command lines from other failures: a program
// with an invalid flag exits with status 2, with any other error with status 1.
package usage

import (
	"errors"

	"github.com/spf13/cobra"
)

// invalid is the error of an invalid command line.
type invalid struct{ error }

func (i invalid) Unwrap() error { return i.error }

// Error marks an error as that of an invalid command line. It returns nil for nil.
func Error(err error) error {
	if err == nil {
		return nil
	}
	return invalid{err}
}

// NoArgs is cobra.NoArgs with an Error.
func NoArgs(cmd *cobra.Command, args []string) error { return Error(cobra.NoArgs(cmd, args)) }

// ExitStatus returns the exit status of a program that ends with the error.
func ExitStatus(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.As(err, &invalid{}):
		return 2
	default:
		return 1
	}
}
