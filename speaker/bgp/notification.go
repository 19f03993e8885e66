package bgp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Notification is a NOTIFICATION message: the reason why one end closes a session
// (RFC 4271 section 4.5).
type Notification struct {
	Code, Subcode uint8
	Data          []byte
}

func (n Notification) encode() []byte {
	return newMessage(msgNotification, append([]byte{n.Code, n.Subcode}, n.Data...))
}

// Codes and subcodes of NOTIFICATIONs that the speaker sends (RFC 4271 section 4.5,
// RFC 4486, RFC 5492, RFC 6608, RFC 9384, RFC 9687).
const (
	codeHeader        = 1
	notSynchronized   = 1
	badLength         = 2
	badType           = 3
	codeOpen          = 2
	badVersion        = 1
	badPeerAS         = 2
	badIdentifier     = 3
	badHoldTime       = 6
	badCapability     = 7
	codeHoldTimer     = 4
	codeStateMachine  = 5
	inOpenSent        = 1
	inOpenConfirm     = 2
	inEstablished     = 3
	codeCease         = 6
	ceaseShutdown     = 2
	ceaseDeconfigured = 3
	ceaseReset        = 4
	ceaseCollision    = 7
	ceaseBFDDown      = 10
)

// maxShutdownReason is the longest text of a Cease, in bytes (RFC 9003 section 2).
const maxShutdownReason = 255

// shutdownData returns the data of a Cease with a text for operators (RFC 9003
// section 2). A text of more than 255 bytes is cut between two characters.
func shutdownData(text string) []byte {
	if len(text) > maxShutdownReason {
		end := maxShutdownReason
		for !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end]
	}
	return append([]byte{uint8(len(text))}, text...)
}

// decodeNotification decodes the body of a NOTIFICATION.
func decodeNotification(body []byte) Notification {
	return Notification{Code: body[0], Subcode: body[1], Data: bytes.Clone(body[2:])}
}

// codeNames are the IANA names of NOTIFICATION codes (RFC 4271, RFC 7313, RFC 9687).
var codeNames = map[uint8]string{
	1: "message header error", 2: "OPEN message error", 3: "UPDATE message error",
	4: "hold timer expired", 5: "finite state machine error", 6: "Cease",
	7: "ROUTE-REFRESH message error", 8: "send hold timer expired",
}

// subcodeNames are the IANA names of their subcodes (RFC 4271, RFC 4486, RFC 5492, RFC 6608, RFC 8203,
// RFC 8538, RFC 9234, RFC 9384).
var subcodeNames = map[[2]uint8]string{
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

// notificationHints are what an operator should check.
var notificationHints = map[[2]uint8]string{
	{2, 2}: "it expects another AS number for this node",
	{2, 3}: "it or another of its peers has the router ID of this node",
	{6, 1}: "it accepts fewer prefixes than are advertised",
	{6, 5}: "this node is not among its neighbors, or it has too many of them",
}

// String returns the names of code and subcode, and the text of the sender.
func (n Notification) String() string {
	key := [2]uint8{n.Code, n.Subcode}
	name, ok := codeNames[n.Code]
	if !ok {
		name = fmt.Sprintf("error %d", n.Code)
	}
	if sub, ok := subcodeNames[key]; ok {
		name += ": " + sub
	} else if n.Subcode != 0 {
		name += fmt.Sprintf(": subcode %d", n.Subcode)
	}
	switch {
	case n.Code == codeCease && (n.Subcode == ceaseShutdown || n.Subcode == ceaseReset):
		if text := shutdownText(n.Data); text != "" {
			name += fmt.Sprintf(" (%q)", text)
		}
	case key == [2]uint8{codeCease, 1} && len(n.Data) == 7:
		name += fmt.Sprintf(" (at most %d)", binary.BigEndian.Uint32(n.Data[3:]))
	}
	if hint, ok := notificationHints[key]; ok {
		name += ": " + hint
	}
	return name
}

// shutdownText returns the text of a shutdown (RFC 9003): one line of UTF-8
// without control characters, which a log or a terminal could interpret.
func shutdownText(data []byte) string {
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
