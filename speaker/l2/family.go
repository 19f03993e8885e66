package l2

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/ethernet"
	"golang.org/x/net/bpf"
)

// family is the protocol that resolves the addresses of one IP version: ARP or Neighbor
// Discovery. Its methods take the responder's MAC first where they need it, have no state
// and may be called concurrently.
type family interface {
	fmt.Stringer
	etherType() ethernet.EtherType
	// newFilter returns a program for the socket of the interface: only questions for the
	// addresses and claims of them pass, and a few others (see filter.go).
	newFilter(ifindex int, addrs []netip.Addr) ([]bpf.RawInstruction, error)
	// parse returns what a frame asks for and claims. It returns false for a frame that
	// the protocol requires to be ignored.
	parse(mac net.HardwareAddr, frame []byte) (message, bool)
	// answer returns the frame that answers the question of a message.
	answer(mac net.HardwareAddr, m message) []byte
	// announce returns the unsolicited frames that make other hosts replace their
	// entries for the address. Most hosts need the first one only.
	announce(mac net.HardwareAddr, addr netip.Addr) [][]byte
	// probe returns the frame that asks whether a host has the address, without claiming it.
	probe(mac net.HardwareAddr, addr netip.Addr) []byte
	// solicitation returns the frame that asks the host with the MAC to, or a group, for
	// the address. The sender is an address of this end's, or unspecified, as in a probe.
	solicitation(mac net.HardwareAddr, sender, addr netip.Addr, to net.HardwareAddr) []byte
	// newAnswerFilter returns a program for a socket that only receives answers to the
	// solicitations of this end.
	newAnswerFilter(ifindex int, mac net.HardwareAddr) ([]bpf.RawInstruction, error)
}

// message is what a received frame asks for and claims.
type message struct {
	question netip.Addr       // the address that is asked for; invalid if there is none
	claim    netip.Addr       // the address that the sender says it has; invalid if there is none
	sender   netip.Addr       // the sender's address; unspecified in a probe
	mac      net.HardwareAddr // the sender's
}

// familyOf returns the protocol of the address's IP version.
func familyOf(addr netip.Addr) family {
	if addr.Is4() {
		return arpFamily{}
	}
	return ndpFamily{}
}

// isMulticast reports whether the MAC is the broadcast address or one of a group.
func isMulticast(mac net.HardwareAddr) bool { return mac[0]&1 != 0 }

// isHost reports whether the MAC can be that of one host.
func isHost(mac net.HardwareAddr) bool { return !isMulticast(mac) && !bytes.Equal(mac, zeroMAC) }

// mustMarshal returns the frame. It panics if a part of it is of the wrong size, which
// the callers rule out.
func mustMarshal(from, to net.HardwareAddr, etherType ethernet.EtherType, payload []byte, err error) []byte {
	if err == nil {
		frame := ethernet.Frame{Destination: to, Source: from, EtherType: etherType, Payload: payload}
		if b, frameErr := frame.MarshalBinary(); frameErr == nil {
			return b
		} else {
			err = frameErr
		}
	}
	panic("marshal a frame: " + err.Error())
}
