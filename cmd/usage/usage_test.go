package usage

import (
	"errors"
	"fmt"
	"testing"
)

func TestExitStatus(t *testing.T) {
	other := errors.New("other")
	for err, want := range map[error]int{nil: 0, Error(nil): 0, other: 1, Error(other): 2, fmt.Errorf("run: %w", Error(other)): 2} {
		if got := ExitStatus(err); got != want {
			t.Errorf("%v: got %d, want %d", err, got, want)
		}
	}
	if !errors.Is(Error(other), other) {
		t.Error("the error is not wrapped")
	}
}
