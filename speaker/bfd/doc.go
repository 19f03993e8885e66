// Package bfd detects within milliseconds that the other end of a path is gone:
// Bidirectional Forwarding Detection, asynchronous mode (RFC 5880), over one
// hop (RFC 5881) and over several (RFC 5883).
package bfd
