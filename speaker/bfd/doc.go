// Package bfd detects within milliseconds that the other end of a path is gone:
// Bidirectional Forwarding Detection, asynchronous mode (RFC 5880), over one
// hop (RFC 5881) and over several (RFC 5883). It knows nothing of what runs
// over the paths.
//
// session.go is the protocol, without clock and sockets: packets and instants
// in, packets and deadlines out. apply.go is one loop that runs all sessions:
// it waits for a packet or a deadline, reads everything that has arrived, and
// only then judges which peers have fallen silent. So a process that was not
// scheduled for a while does not take its own absence for the peer's.
// socket.go is the kernel's part.
//
// Not supported, because nobody needs it here: the echo function (ours asks for
// none, and none is sent), demand mode (the D bit is never set; a peer that
// sets it is sent packets all the same, which keeps its session up), and
// authentication (a peer that demands it is not believed, and its session's
// status says so).
package bfd
