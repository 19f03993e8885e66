// Package fuzzed derives test values from the input of a fuzzer: numbers, likely
// words, and arbitrary text.
package fuzzed

import "strings"

// Bytes is the remaining input of the fuzzer. When it is empty, all values are the
// first of their kind.
type Bytes struct{ Rest []byte }

// Below returns a number from 0 to n-1.
func (b *Bytes) Below(n int) int {
	if len(b.Rest) == 0 {
		return 0
	}
	x := int(b.Rest[0])
	b.Rest = b.Rest[1:]
	return x % n
}

// Text returns one of the words, or other text that is valid in JSON. The text is
// mostly short and has at most 65,280 bytes before invalid UTF-8 is replaced.
func (b *Bytes) Text(words ...string) string {
	if i := b.Below(len(words) + 1); i < len(words) {
		return words[i]
	}
	n := min(b.Below(256), len(b.Rest))
	text := string(b.Rest[:n])
	b.Rest = b.Rest[n:]
	return strings.Repeat(strings.ToValidUTF8(text, "\uFFFD"), 1+b.Below(2)*b.Below(256))
}
