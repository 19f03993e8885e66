package v1alpha1

import (
	"fmt"
	"strings"
)

// Refusal explains why a request cannot be satisfied in the present state of the
// cluster: a Reason, and a message for the condition, the Event and the command
// line. It is not retried before the configuration or the cluster changes. The zero
// Refusal means that nothing was refused.
//
// A *Refusal is an error, so that a provider can return one from the standard
// cloudprovider.LoadBalancer methods.
//
// +kubebuilder:object:generate=false
type Refusal struct {
	Reason  Reason
	Message string
}

// Error implements error.
func (r *Refusal) Error() string { return string(r.Reason) + ": " + r.Message }

// Abbreviate joins items for a message: at most three of them, and the number of
// those that are left out.
func Abbreviate(items []string, separator string) string {
	const limit = 3
	if len(items) <= limit {
		return strings.Join(items, separator)
	}
	return fmt.Sprintf("%s%sand %d more", strings.Join(items[:limit], separator), separator, len(items)-limit)
}
