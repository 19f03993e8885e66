// Package output prints what the commands find: as text for people, which is
// aligned in tables and may change, and as JSON for programs, which is indented
// with field names that are stable.
package output

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Formats are the formats that Print knows, the default one first.
var Formats = []string{"text", "json"}

// Result is what a command finds. It is encoded as JSON as it is.
type Result interface {
	// Text writes the result for people, in one write.
	Text(w io.Writer) error
}

// Print writes the result in the format, which must be one of Formats.
func Print(w io.Writer, format string, r Result) error {
	print := r.Text
	if format == "json" {
		print = func(w io.Writer) error {
			encoder := json.NewEncoder(w)
			encoder.SetEscapeHTML(false)
			encoder.SetIndent("", "  ")
			return encoder.Encode(r)
		}
	}
	if err := print(w); err != nil {
		return fmt.Errorf("print the answer: %w", err)
	}
	return nil
}

// Table aligns the columns, separated by tabs, of the rows that the function
// writes, and trims the lines. The writer that it is given cannot fail.
func Table(rows func(w io.Writer)) string {
	var aligned, trimmed strings.Builder
	t := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	rows(t)
	_ = t.Flush() // a strings.Builder cannot fail
	for line := range strings.Lines(aligned.String()) {
		trimmed.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return trimmed.String()
}

// Count returns the number with the noun, in the singular or in the plural.
func Count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Condition is a condition of an object, as results show it: without its time.
type Condition struct {
	Type    string                 `json:"type"`
	Status  metav1.ConditionStatus `json:"status"`
	Reason  v1alpha1.Reason        `json:"reason"`
	Message string                 `json:"message"`
}

// Conditions converts conditions. It never returns nil.
func Conditions(from []metav1.Condition) []Condition {
	all := make([]Condition, 0, len(from))
	for _, c := range from {
		all = append(all, Condition{c.Type, c.Status, v1alpha1.Reason(c.Reason), c.Message})
	}
	return all
}
