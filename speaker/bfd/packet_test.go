package bfd

import (
	"slices"
	"testing"
	"time"
)

var samplePacket = controlPacket{
	state: Up, diagnostic: NeighborSignaledDown, poll: true, controlPlaneIndependent: true, multiplier: 3,
	myDiscriminator: 0x01020304, yourDiscriminator: 0xa1a2a3a4, transmit: 100 * time.Millisecond, receive: 50 * time.Millisecond,
}

func TestEncode(t *testing.T) {
	want := []byte{
		0x23, 0xe8, 3, 24,
		1, 2, 3, 4,
		0xa1, 0xa2, 0xa3, 0xa4,
		0, 1, 0x86, 0xa0,
		0, 0, 0xc3, 0x50,
		0, 0, 0, 0,
	}
	if have := samplePacket.appendTo(nil); !slices.Equal(have, want) {
		t.Errorf("have % x\nwant % x", have, want)
	}
}

// TestDecode covers every rule of RFC 5880 section 6.8.6 that does not depend on a
// session.
func TestDecode(t *testing.T) {
	// with returns the sample packet with one byte changed.
	with := func(at int, value byte) []byte {
		b := samplePacket.appendTo(nil)
		b[at] = value
		return b
	}
	first := func(s State, yours uint32) []byte {
		return controlPacket{state: s, multiplier: 3, myDiscriminator: 1, yourDiscriminator: yours}.appendTo(nil)
	}
	for _, test := range []struct {
		name string
		b    []byte
		ok   bool
	}{
		{"as sent", samplePacket.appendTo(nil), true},
		{"more bytes than its length", append(samplePacket.appendTo(nil), 1, 2, 3), true},
		{"a byte short", samplePacket.appendTo(nil)[:23], false},
		{"nothing", nil, false},
		{"version 0", with(0, 0x03), false},
		{"version 2", with(0, 0x43), false},
		{"length below 24", with(3, 23), false},
		{"length above the datagram's", with(3, 25), false},
		{"authenticated, too short", with(1, 0xc4), false},
		{"authenticated", append(with(1, 0xc4)[:3], append([]byte{26}, append(samplePacket.appendTo(nil)[4:], 1, 2)...)...), true},
		{"multiplier 0", with(2, 0), false},
		{"multipoint", with(1, 0xc1), false},
		{"without My Discriminator", controlPacket{state: Up, multiplier: 3, yourDiscriminator: 1}.appendTo(nil), false},
		{"Down without Your Discriminator", first(Down, 0), true},
		{"AdminDown without Your Discriminator", first(AdminDown, 0), true},
		{"Init without Your Discriminator", first(Init, 0), false},
		{"Up without Your Discriminator", first(Up, 0), false},
		{"Init", first(Init, 7), true},
	} {
		if _, ok := decodePacket(test.b); ok != test.ok {
			t.Errorf("%s: accepted is %t", test.name, ok)
		}
	}
	if have, _ := decodePacket(samplePacket.appendTo(nil)); have != samplePacket {
		t.Errorf("have %+v\nwant %+v", have, samplePacket)
	}
}

// FuzzDecode checks that an accepted packet is equal after encoding and decoding.
func FuzzDecode(f *testing.F) {
	f.Add(samplePacket.appendTo(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := decodePacket(b)
		if !ok {
			return
		}
		if p.myDiscriminator == 0 || p.multiplier == 0 || p.yourDiscriminator == 0 && p.state > Down {
			t.Errorf("accepted %+v", p)
		}
		if p.authenticated {
			return // the authentication section is not preserved
		}
		if again, ok := decodePacket(p.appendTo(nil)); !ok || again != p {
			t.Errorf("%+v became %+v", p, again)
		}
	})
}

func TestNames(t *testing.T) {
	for have, want := range map[string]string{
		AdminDown.String(): "AdminDown", Up.String(): "Up", State(4).String(): "State(4)",
		DetectionTimeExpired.String():        "control detection time expired",
		ReverseConcatenatedPathDown.String(): "reverse concatenated path down",
		Diagnostic(9).String():               "Diagnostic(9)",
	} {
		if have != want {
			t.Errorf("have %q, want %q", have, want)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	raw := samplePacket.appendTo(nil)
	b.ReportAllocs()
	for b.Loop() {
		decodePacket(raw)
	}
}
