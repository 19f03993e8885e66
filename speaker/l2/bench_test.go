package l2

import (
	"net"
	"net/netip"
	"testing"
)

func BenchmarkAnswer(b *testing.B) {
	for _, f := range familyTests {
		b.Run(f.String(), func(b *testing.B) {
			mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
			r := &responder{family: f.family, ifi: net.Interface{HardwareAddr: mac}, tasks: map[netip.Addr]*task{f.vip: {addr: f.vip}}}
			frame := f.question(clientMAC, f.client, f.vip, nil)
			for b.Loop() {
				r.handle(b.Context(), frame)
			}
		})
	}
}
