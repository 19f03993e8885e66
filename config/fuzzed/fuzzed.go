// Package fuzzed makes values for tests out of what a fuzzer makes up: words
// that somebody might write, and anything else.
package fuzzed

import "strings"

// Bytes are what is left of the fuzzer's input. When nothing is left, all values
// are the first of their kind.
type Bytes struct{ Rest []byte }

// Below is a number from 0 to n-1.
func (b *Bytes) Below(n int) int {
	if len(b.Rest) == 0 {
		return 0
	}
	x := int(b.Rest[0])
	b.Rest = b.Rest[1:]
	return x % n
}

// Text is one of the words or any other text that JSON can carry, often short
// and at most 65,280 bytes before what is no UTF-8 is replaced.
func (b *Bytes) Text(words ...string) string {
	if i := b.Below(len(words) + 1); i < len(words) {
		return words[i]
	}
	n := min(b.Below(256), len(b.Rest))
	text := string(b.Rest[:n])
	b.Rest = b.Rest[n:]
	return strings.Repeat(strings.ToValidUTF8(text, "\uFFFD"), 1+b.Below(2)*b.Below(256))
}
