package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// formats are the values of -o.
var formats = []string{"text", "json"}

// outputFlag adds -o. What it returns prints an answer in the format asked for.
func outputFlag(cmd *cobra.Command) (check func() error, print func(answer) error) {
	format := formats[0]
	cmd.Flags().StringVarP(&format, "output", "o", format, "Output format: "+strings.Join(formats, " or ")+".")
	check = func() error {
		if !slices.Contains(formats, format) {
			return fmt.Errorf("--output=%q: must be one of %q", format, formats)
		}
		return nil
	}
	print = func(a answer) error {
		var b strings.Builder
		if format == "json" {
			encoder := json.NewEncoder(&b)
			encoder.SetEscapeHTML(false)
			encoder.SetIndent("", "  ")
			if err := encoder.Encode(a); err != nil {
				return fmt.Errorf("encode the answer: %w", err)
			}
		} else {
			a.text(&b)
		}
		if _, err := io.WriteString(cmd.OutOrStdout(), b.String()); err != nil {
			return fmt.Errorf("print the answer: %w", err)
		}
		return nil
	}
	return check, print
}

// answer is what a command has to say, for people and for programs.
type answer interface{ text(*strings.Builder) }

func table(b *strings.Builder, rows func(io.Writer)) {
	var aligned strings.Builder
	t := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	rows(t)
	_ = t.Flush() // a strings.Builder cannot fail
	for line := range strings.Lines(aligned.String()) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
}

// list is never null in JSON.
func list[T any](all []T) []T {
	if all == nil {
		return []T{}
	}
	return all
}
