package bfd

import (
	"slices"
	"testing"
	"time"
)

var sample = packet{
	state: Up, diagnostic: NeighborSignaledDown, poll: true, independent: true, multiplier: 3,
	mine: 0x01020304, yours: 0xa1a2a3a4, transmit: 100 * time.Millisecond, receive: 50 * time.Millisecond,
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
	if have := sample.append(nil); !slices.Equal(have, want) {
		t.Errorf("have % x\nwant % x", have, want)
	}
}

// TestDecode: every rule of RFC 5880 section 6.8.6 that needs no session.
func TestDecode(t *testing.T) {
	// with changes one byte of the sample.
	with := func(at int, value byte) []byte {
		b := sample.append(nil)
		b[at] = value
		return b
	}
	first := func(s State, yours uint32) []byte {
		return packet{state: s, multiplier: 3, mine: 1, yours: yours}.append(nil)
	}
	for _, test := range []struct {
		name string
		b    []byte
		ok   bool
	}{
		{"as sent", sample.append(nil), true},
		{"more bytes than its length", append(sample.append(nil), 1, 2, 3), true},
		{"a byte short", sample.append(nil)[:23], false},
		{"nothing", nil, false},
		{"version 0", with(0, 0x03), false},
		{"version 2", with(0, 0x43), false},
		{"length below 24", with(3, 23), false},
		{"length above the datagram's", with(3, 25), false},
		{"authenticated, too short", with(1, 0xc4), false},
		{"authenticated", append(with(1, 0xc4)[:3], append([]byte{26}, append(sample.append(nil)[4:], 1, 2)...)...), true},
		{"multiplier 0", with(2, 0), false},
		{"multipoint", with(1, 0xc1), false},
		{"no discriminator", packet{state: Up, multiplier: 3, yours: 1}.append(nil), false},
		{"Down to a stranger", first(Down, 0), true},
		{"AdminDown to a stranger", first(AdminDown, 0), true},
		{"Init to a stranger", first(Init, 0), false},
		{"Up to a stranger", first(Up, 0), false},
		{"Init", first(Init, 7), true},
	} {
		if _, ok := decode(test.b); ok != test.ok {
			t.Errorf("%s: accepted is %t", test.name, ok)
		}
	}
	if have, _ := decode(sample.append(nil)); have != sample {
		t.Errorf("have %+v\nwant %+v", have, sample)
	}
}

// FuzzDecode: what is accepted survives being sent again.
func FuzzDecode(f *testing.F) {
	f.Add(sample.append(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := decode(b)
		if !ok {
			return
		}
		if p.mine == 0 || p.multiplier == 0 || p.yours == 0 && p.state > Down {
			t.Errorf("accepted %+v", p)
		}
		if p.authenticated {
			return // what follows is not kept
		}
		if again, ok := decode(p.append(nil)); !ok || again != p {
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
	raw := sample.append(nil)
	b.ReportAllocs()
	for b.Loop() {
		decode(raw)
	}
}
