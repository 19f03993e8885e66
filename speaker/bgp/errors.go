package bgp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// codes are the IANA names of NOTIFICATION codes (RFC 4271, RFC 7313, RFC 9687).
var codes = map[uint8]string{
	1: "message header error", 2: "OPEN message error", 3: "UPDATE message error",
	4: "hold timer expired", 5: "finite state machine error", 6: "Cease",
	7: "ROUTE-REFRESH message error", 8: "send hold timer expired",
}

// subcodes are their subcodes (RFC 4271, RFC 4486, RFC 5492, RFC 6608, RFC 8203,
// RFC 8538, RFC 9234, RFC 9384).
var subcodes = map[[2]uint8]string{
	{1, 1}: "connection not synchronized", {1, 2}: "bad message length", {1, 3}: "bad message type",
	{2, 1}: "unsupported version number", {2, 2}: "bad peer AS", {2, 3}: "bad BGP identifier",
	{2, 4}: "unsupported optional parameter", {2, 5}: "authentication failure",
	{2, 6}: "unacceptable hold time", {2, 7}: "unsupported capability", {2, 11}: "role mismatch",
	{3, 1}: "malformed attribute list", {3, 2}: "unrecognized well-known attribute",
	{3, 3}: "missing well-known attribute", {3, 4}: "attribute flags error",
	{3, 5}: "attribute length error", {3, 6}: "invalid ORIGIN attribute",
	{3, 8}: "invalid NEXT_HOP attribute", {3, 9}: "optional attribute error",
	{3, 10}: "invalid network field", {3, 11}: "malformed AS_PATH",
	{5, 1}: "unexpected message in OpenSent", {5, 2}: "unexpected message in OpenConfirm",
	{5, 3}: "unexpected message in Established",
	{6, 1}: "maximum number of prefixes reached", {6, 2}: "administrative shutdown",
	{6, 3}: "peer de-configured", {6, 4}: "administrative reset", {6, 5}: "connection rejected",
	{6, 6}: "other configuration change", {6, 7}: "connection collision resolution",
	{6, 8}: "out of resources", {6, 9}: "hard reset", {6, 10}: "BFD down",
}

// hints tell an operator what to look at.
var hints = map[[2]uint8]string{
	{2, 2}: "it expects another AS number of this node",
	{2, 3}: "another of its peers has this node's router ID, or it has it itself",
	{6, 1}: "it accepts fewer prefixes than are announced",
	{6, 5}: "this node is not among its neighbours, or there are too many of them",
}

// String says what RFCs call it, and what the peer wrote.
func (n Notification) String() string {
	key := [2]uint8{n.Code, n.Subcode}
	name, ok := codes[n.Code]
	if !ok {
		name = fmt.Sprintf("error %d", n.Code)
	}
	if sub, ok := subcodes[key]; ok {
		name += ": " + sub
	} else if n.Subcode != 0 {
		name += fmt.Sprintf(": subcode %d", n.Subcode)
	}
	switch {
	case n.Code == codeCease && (n.Subcode == ceaseShutdown || n.Subcode == ceaseReset):
		if text := communication(n.Data); text != "" {
			name += fmt.Sprintf(" (%q)", text)
		}
	case key == [2]uint8{codeCease, 1} && len(n.Data) == 7:
		name += fmt.Sprintf(" (at most %d)", binary.BigEndian.Uint32(n.Data[3:]))
	}
	if hint, ok := hints[key]; ok {
		name += ": " + hint
	}
	return name
}

// communication is the text of a shutdown (RFC 9003): one line of UTF-8, of
// which a log or a terminal gets no control characters.
func communication(data []byte) string {
	if len(data) < 1 || int(data[0]) > len(data)-1 {
		return ""
	}
	text := bytes.ToValidUTF8(data[1:1+data[0]], []byte(string(utf8.RuneError)))
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, string(text))
}

// dialError says why there is no connection.
func dialError(p Peer, err error) error {
	at := func(step Step, format string, args ...any) error {
		return &stumble{fmt.Errorf(format, args...), step}
	}
	to := fmt.Sprintf("%s port %d", p.Address, p.Port)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return at(StepConnect, "connection refused by %s (is BGP running there, and is this node allowed?)", to)
	case isTimeout(err) || errors.Is(err, syscall.ETIMEDOUT):
		causes := "it is down or filtered, or it expects a password"
		if p.Password != "" {
			causes = "it is down or filtered, or its password differs"
		}
		if p.TTLSecurity || p.Hops == 1 {
			causes += ", or it is more hops away than allowed"
		}
		return at(StepAnswer, "no answer from %s (%s)", to, causes)
	case errors.Is(err, syscall.EHOSTUNREACH):
		return at(StepReach, "no route to host %s (it answers no ARP or NDP, or a router knows no way)", to)
	case errors.Is(err, syscall.ENETUNREACH):
		return at(StepReach, "no route to %s from this node", to)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return at(StepReach, "this node does not have the source address %s", p.Source)
	case errors.Is(err, errNoLink):
		return at(StepReach, "this node has no link %q", p.Address.Zone())
	}
	return at(StepConnect, "connect to %s: %w", to, err)
}

// lost says how a connection ended without a word. before is the state that
// it ended in.
func lost(p Peer, before SessionState, err error) error {
	closed := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	switch {
	case !closed:
		return fmt.Errorf("the connection was lost: %w", err)
	case before == OpenSent:
		hint := "is this node one of its neighbours?"
		if p.TTLSecurity || p.Hops == 1 {
			hint = "is this node one of its neighbours, at the same distance?"
		}
		return fmt.Errorf("the peer closed the connection after our OPEN without a NOTIFICATION (%s)", hint)
	case before == OpenConfirm:
		return errors.New("the peer closed the connection after its OPEN without a NOTIFICATION")
	}
	return errors.New("the peer closed the connection without a NOTIFICATION")
}

// families says which.
func families(v4, v6 bool) string {
	switch {
	case v4 && v6:
		return "IPv4 and IPv6"
	case v4:
		return "IPv4"
	case v6:
		return "IPv6"
	}
	return "none"
}
