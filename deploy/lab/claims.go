package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ClaimWatch records which MAC announces each address on a LAN, by gratuitous ARP and
// unsolicited Neighbor Advertisements. Its methods may be called concurrently.
type ClaimWatch struct {
	fd   int
	ring []byte

	mu     sync.Mutex
	claims map[netip.Addr]LANClaim
}

// LANClaim is the last announcement of an address by another MAC than before.
type LANClaim struct {
	MAC string
	At  time.Time // when the kernel of the host received the first frame
}

// The ring has room for the announcements of thousands of addresses, also while this
// process does not run.
const (
	ringFrameSize = 256
	ringBlockSize = 1 << 16
	ringBlocks    = 128
	ringFrames    = ringBlocks * ringBlockSize / ringFrameSize
)

// WatchClaims starts to record the announcements that the host receives on eth0, until ctx
// ends.
func (h *Host) WatchClaims(ctx context.Context) (*ClaimWatch, error) {
	w := &ClaimWatch{fd: -1, claims: map[netip.Addr]LANClaim{}}
	if err := h.Do(w.open); err != nil {
		return nil, fmt.Errorf("%s: watch announcements: %w", h.Name, errors.Join(err, unix.Close(w.fd)))
	}
	go w.receive(ctx)
	return w, nil
}

// open opens a socket whose frames are in a ring of shared memory (packet(7),
// PACKET_RX_RING).
func (w *ClaimWatch) open() error {
	ifi, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	protocol := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
	if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(protocol)); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
		return err
	}
	if err := unix.SetsockoptTpacketReq(w.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &unix.TpacketReq{
		Block_size: ringBlockSize, Block_nr: ringBlocks, Frame_size: ringFrameSize, Frame_nr: ringFrames,
	}); err != nil {
		return err
	}
	if w.ring, err = unix.Mmap(w.fd, 0, ringBlocks*ringBlockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return err
	}
	return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: ifi.Index})
}

// receive records the frames of the ring, until ctx ends.
func (w *ClaimWatch) receive(ctx context.Context) {
	defer unix.Close(w.fd)
	for i := 0; ctx.Err() == nil; {
		frame := w.ring[i*ringFrameSize:][:ringFrameSize]
		header := (*unix.Tpacket2Hdr)(unsafe.Pointer(&frame[0]))
		if atomic.LoadUint32(&header.Status)&unix.TP_STATUS_USER == 0 {
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, 100)
			continue
		}
		w.record(frame[header.Mac:][:header.Snaplen], time.Unix(int64(header.Sec), int64(header.Nsec)))
		atomic.StoreUint32(&header.Status, unix.TP_STATUS_KERNEL)
		i = (i + 1) % ringFrames
	}
}

func (w *ClaimWatch) record(frame []byte, at time.Time) {
	addr, ok := announcedAddr(frame)
	if !ok {
		return
	}
	mac := net.HardwareAddr(frame[6:12]).String()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.claims[addr].MAC != mac {
		w.claims[addr] = LANClaim{mac, at}
	}
}

// announcedAddr returns the address that a gratuitous ARP packet or an unsolicited Neighbor
// Advertisement announces.
func announcedAddr(frame []byte) (addr netip.Addr, ok bool) {
	const advertisement, solicited = 136, 0x40 // RFC 4861 section 4.4
	switch kind := binary.BigEndian.Uint16(frame[12:]); {
	case kind == unix.ETH_P_ARP && len(frame) >= 42:
		addr, ok = netip.AddrFromSlice(frame[28:32])
		return addr, ok && bytes.Equal(frame[28:32], frame[38:42])
	case kind == unix.ETH_P_IPV6 && len(frame) >= 78 && frame[20] == unix.IPPROTO_ICMPV6 && frame[54] == advertisement:
		addr, ok = netip.AddrFromSlice(frame[62:78])
		return addr, ok && frame[58]&solicited == 0
	}
	return addr, false
}

// Claims returns the last claim of each address.
func (w *ClaimWatch) Claims() map[netip.Addr]LANClaim {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.claims)
}

// Dropped returns the number of frames for which the ring had no room since the last call.
func (w *ClaimWatch) Dropped() (int, error) {
	stats, err := unix.GetsockoptTpacketStats(w.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, fmt.Errorf("count dropped frames: %w", err)
	}
	return int(stats.Drops), nil
}

// AddAddress adds an address to eth0 of the host.
func (h *Host) AddAddress(p netip.Prefix) error { return h.changeAddress("add", p, netlink.AddrAdd) }

// RemoveAddress removes an address from eth0 of the host.
func (h *Host) RemoveAddress(p netip.Prefix) error {
	return h.changeAddress("remove", p, netlink.AddrDel)
}

// AddLANRoute adds a route to a subnet of the LAN, which the host has no address of. The route
// that belongs to an address of the subnet is preferred.
func (h *Host) AddLANRoute(p netip.Prefix) error {
	const metric = 1000
	err := h.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.RouteReplace(&netlink.Route{
			LinkIndex: link.Attrs().Index, Dst: ipNet(p), Scope: netlink.SCOPE_LINK, Priority: metric,
		})
	})
	if err != nil {
		return fmt.Errorf("host %s: add a route to %s: %w", h.Name, p, err)
	}
	return nil
}

func (h *Host) changeAddress(what string, p netip.Prefix, change func(netlink.Link, *netlink.Addr) error) error {
	err := h.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return change(link, &netlink.Addr{IPNet: ipNet(p)})
	})
	if err != nil {
		return fmt.Errorf("host %s: %s address %s: %w", h.Name, what, p, err)
	}
	return nil
}

// ForgetNeighbor removes the entry of an address from the neighbor table of the host, if
// there is one, so that the next packet to it asks for its MAC.
func (h *Host) ForgetNeighbor(addr netip.Addr) error {
	err := h.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		err = netlink.NeighDel(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: addr.AsSlice()})
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("host %s: forget the MAC of %s: %w", h.Name, addr, err)
	}
	return nil
}
