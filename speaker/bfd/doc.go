// Package bfd detects within milliseconds that the other end of a path has
// failed: Bidirectional Forwarding Detection, asynchronous mode (RFC 5880), over
// one hop (RFC 5881) and over several (RFC 5883). It is independent of the
// protocols that use the paths.
//
// session.go is the protocol without clock and sockets: packets and instants in,
// packets and deadlines out. apply.go is one loop that runs all sessions: it
// waits for a packet or a deadline, reads all packets that have arrived, and only
// then expires peers. A process that was not scheduled for a while therefore does
// not mistake its own pause for a failure of its peers. socket.go is the
// implementation over UDP sockets.
//
// An Engine keeps the sessions in memory only. resume.go continues the sessions
// of an earlier process whose Engine was paused. stretch.go limits the packets of many
// sessions.
//
// Not supported, because no user of the package needs it: the echo function (the
// Required Min Echo RX Interval is 0, and no echo packets are sent), demand mode
// (the D bit is never set; packets to a peer that sets it continue, which keeps
// its session up), and authentication (packets of a peer that requires it are
// rejected, and Status.Problem of the session names the cause).
package bfd
