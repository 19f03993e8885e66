// Package output prints the results of the commands: as text in aligned tables,
// which may change between versions, or as indented JSON with stable field names.
package output

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf16"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Formats are the formats that Print supports, the default one first.
var Formats = []string{"text", "json"}

// Result is the result of a command. Print encodes it as JSON.
type Result interface {
	// Text writes the result as text, in one write.
	Text(w io.Writer) error
}

// Print writes the result in the format, which must be one of Formats. Characters that
// are not printable are replaced in text, and escaped in JSON: messages and names come
// from objects that others write, and must not control the terminal.
func Print(w io.Writer, format string, r Result) error {
	print := func(w io.Writer) error { return r.Text(printableWriter{w, func(rune) string { return "?" }}) }
	if format == "json" {
		print = func(w io.Writer) error {
			encoder := json.NewEncoder(printableWriter{w, escapeJSON})
			// Messages would otherwise contain \u003c in place of "<".
			encoder.SetEscapeHTML(false)
			encoder.SetIndent("", "  ")
			return encoder.Encode(r)
		}
	}
	if err := print(w); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}

// printableWriter replaces all characters that are not printable, except newlines.
// Text must be written in one write, so that no character is split.
type printableWriter struct {
	io.Writer
	replace func(rune) string
}

func (w printableWriter) Write(text []byte) (int, error) {
	var printable strings.Builder
	for _, r := range string(text) {
		if r == '\n' || unicode.IsPrint(r) {
			printable.WriteRune(r)
		} else {
			printable.WriteString(w.replace(r))
		}
	}
	if _, err := io.WriteString(w.Writer, printable.String()); err != nil {
		return 0, err
	}
	return len(text), nil
}

// escapeJSON returns the escape sequence of a character in a JSON string (RFC 8259
// section 7). The encoder escapes only those below U+0020.
func escapeJSON(r rune) (escaped string) {
	for _, unit := range utf16.AppendRune(nil, r) {
		escaped += fmt.Sprintf("\\u%04x", unit)
	}
	return escaped
}

// Table returns the rows that the function writes, with their tab-separated columns
// aligned and trailing spaces removed. The writer passed to the function never
// returns an error.
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

// Count returns the number with the noun in the singular or in the plural.
func Count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Condition is a condition of an object without its transition time.
type Condition struct {
	Type    string                 `json:"type"`
	Status  metav1.ConditionStatus `json:"status"`
	Reason  v1alpha1.Reason        `json:"reason"`
	Message string                 `json:"message"`
}

// Conditions converts the conditions of an object. It never returns nil.
func Conditions(from []metav1.Condition) []Condition {
	all := make([]Condition, 0, len(from))
	for _, c := range from {
		all = append(all, Condition{c.Type, c.Status, v1alpha1.Reason(c.Reason), c.Message})
	}
	return all
}
