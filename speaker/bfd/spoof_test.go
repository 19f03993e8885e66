package bfd

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// forgedPacket is a packet of the peer that differs from it in some fields.
type forgedPacket struct {
	name        string
	from        *node // which sends it
	source      string
	destination string
	ttl, port   int
	packet      controlPacket
}

// send sends the packet n times.
func (f forgedPacket) send(t *testing.T, n int) {
	t.Helper()
	must(t, f.from.inNamespace(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, f.ttl); err != nil {
			return err
		}
		if err := unix.Bind(fd, socketAddress(netip.MustParseAddr(f.source), 0, 0)); err != nil {
			return fmt.Errorf("bind %s: %w", f.source, err)
		}
		to := socketAddress(netip.MustParseAddr(f.destination), f.port, 0)
		for range n {
			if err := unix.Sendto(fd, f.packet.appendTo(nil), 0, to); err != nil {
				return fmt.Errorf("send %s: %w", f.name, err)
			}
		}
		return nil
	}))
}

// TestForgedPacketsOnTheWire checks that 400 packets that are those of the peer except
// for one field do not affect sessions of each kind, and that the right packet does.
// The pod is a node behind another interface, with the address of the router.
func TestForgedPacketsOnTheWire(t *testing.T) {
	host, router, pod := newNode(t), newNode(t), newNode(t)
	connectNodes(t, "eth0", host, router, "192.0.2.1/24", "192.0.2.2/24", "192.0.2.11/24", "192.0.2.12/24")
	connectNodes(t, "cni0", host, pod, "198.51.100.1/24", "198.51.100.2/24")
	pod.addRoute(t, "192.0.2.0/24", "198.51.100.1")
	must(t, pod.inNamespace(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr("192.0.2.2/32")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(lo, addr)
	}))
	must(t, host.inNamespace(func() error { // the kernel must not drop the pod's packets
		for _, i := range []string{"all", "cni0"} {
			if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+i+"/rp_filter", []byte("0"), 0); err != nil {
				return err
			}
		}
		return nil
	}))
	here, there := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	multihop := fastProfile
	multihop.MinTTL = 254
	for _, kind := range []struct {
		name    string
		key     Key
		profile Profile
		port    int
	}{
		{"single hop", Key{Peer: there, Local: here, Interface: "eth0"}, fastProfile, portSingleHop},
		{"single hop, not bound", Key{Peer: there}, fastProfile, portSingleHop},
		{"multihop", Key{Peer: there, Local: here, Multihop: true}, multihop, portMultihop},
	} {
		t.Run(kind.name, func(t *testing.T) {
			h, r := host.newEngine(t), router.newEngine(t)
			other := Key{Peer: here, Local: there, Multihop: kind.key.Multihop}
			h.setProfiles(t, map[Key]Profile{kind.key: kind.profile})
			r.setProfiles(t, map[Key]Profile{other: kind.profile})
			h.waitFor(t, kind.key, Up)
			r.waitFor(t, other, Up)
			eventually(t, func() string { return "the timers are not negotiated" }, func() bool { return h.Status()[kind.key].Detection == 300*ms })

			h.mu.Lock()
			s := h.sessions[kind.key]
			right := forgedPacket{
				"nothing", router, there.String(), here.String(), maxTTL, kind.port,
				controlPacket{
					state: Down, multiplier: 3, myDiscriminator: s.peer.myDiscriminator, yourDiscriminator: s.discriminator,
					transmit: time.Second, receive: 100 * ms,
				},
			}
			h.mu.Unlock()
			forged := func(name string, change func(*forgedPacket)) forgedPacket {
				f := right
				f.name = name
				change(&f)
				return f
			}
			all := []forgedPacket{
				forged("source address", func(f *forgedPacket) { f.source = "192.0.2.12" }),
				forged("source address of a pod", func(f *forgedPacket) { f.from, f.source = pod, "198.51.100.2" }),
				forged("my discriminator", func(f *forgedPacket) { f.packet.myDiscriminator++ }),
				forged("your discriminator", func(f *forgedPacket) { f.packet.yourDiscriminator++ }),
				forged("no discriminator", func(f *forgedPacket) { f.packet.yourDiscriminator = 0 }),
				forged("no discriminator, AdminDown", func(f *forgedPacket) { f.packet.yourDiscriminator, f.packet.state = 0, AdminDown }),
				forged("TTL", func(f *forgedPacket) { f.ttl = 253 }),
				forged("port", func(f *forgedPacket) { f.port = portSingleHop + portMultihop - f.port }),
			}
			if !kind.key.Multihop {
				all = append(all, forged("interface", func(f *forgedPacket) { f.from = pod }))
			}
			if kind.key.Local.IsValid() {
				all = append(all, forged("destination address", func(f *forgedPacket) { f.destination = "192.0.2.11" }))
			}
			for _, f := range all {
				f.send(t, 400)
				time.Sleep(50 * ms) // for the packets of the peer that follow
				if s := h.Status()[kind.key]; s.State != Up || s.Flaps != 0 || s.Problem != "" {
					t.Fatalf("%s: %+v", f.name, s)
				}
			}
			right.send(t, 1)
			eventually(t, func() string { return "the right packet was ignored" }, func() bool { return h.Status()[kind.key].Flaps == 1 })
			h.mu.Lock()
			defer h.mu.Unlock()
			i := 0
			for i < len(h.changes[kind.key]) && h.changes[kind.key][i].Flaps == 0 {
				i++
			}
			if down := h.changes[kind.key][i]; down.State != Down || down.Diagnostic != NeighborSignaledDown {
				t.Errorf("%+v", down)
			}
		})
	}
}
