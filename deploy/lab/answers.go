package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"
)

// Answer is a response to an ARP request or a Neighbor Solicitation.
type Answer struct {
	MAC string
	At  time.Time
}

// neighborSocket sends requests for one address, and receives the answers to them.
type neighborSocket interface {
	request() error
	receive() (Answer, bool, error)
	SetReadDeadline(t time.Time) error
	Close() error
}

// WatchAnswers requests the MAC of an address from the host's eth0 at an interval, by ARP
// or Neighbor Discovery, with requests to all machines on the LAN. stop ends it, and
// returns all answers by time.
func (h *Host) WatchAnswers(ctx context.Context, addr netip.Addr, every time.Duration) (stop func() []Answer, err error) {
	s, err := h.openNeighborSocket(addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var (
		running sync.WaitGroup
		answers []Answer
	)
	running.Go(func() {
		for {
			answer, ok, err := s.receive()
			if err != nil && ctx.Err() != nil {
				return
			}
			if err == nil && ok {
				answers = append(answers, answer)
			}
		}
	})
	running.Go(func() {
		defer s.Close()
		defer func() { _ = s.SetReadDeadline(time.Now()) }()
		tick := time.NewTicker(every)
		defer tick.Stop()
		for ctx.Err() == nil {
			_ = s.request() // a request that is not sent is not answered
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	return func() []Answer { cancel(); running.Wait(); return answers }, nil
}

// Resolve requests the MAC of an address from the host's eth0 once, as WatchAnswers does,
// and returns those in the answers within the wait.
func (h *Host) Resolve(addr netip.Addr, wait time.Duration) (macs []string, err error) {
	s, err := h.openNeighborSocket(addr)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := errors.Join(s.request(), s.SetReadDeadline(time.Now().Add(wait))); err != nil {
		return nil, fmt.Errorf("from %s: request the MAC of %s: %w", h.Name, addr, err)
	}
	for {
		answer, ok, err := s.receive()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return macs, nil
		case err != nil:
			return nil, fmt.Errorf("from %s: request the MAC of %s: %w", h.Name, addr, err)
		case ok && !slices.Contains(macs, answer.MAC):
			macs = append(macs, answer.MAC)
		}
	}
}

func (h *Host) openNeighborSocket(addr netip.Addr) (s neighborSocket, err error) {
	err = h.Do(func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		if addr.Is6() {
			conn, _, err := ndp.Listen(ifi, ndp.LinkLocal)
			s = &ndpSocket{conn, ifi, addr}
			return err
		}
		conn, err := packet.Listen(ifi, packet.Raw, int(ethernet.EtherTypeARP), nil)
		if err != nil {
			return err
		}
		client, err := arp.New(ifi, conn)
		s = &arpSocket{client, ifi, addr}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("from %s: open a socket to request MACs: %w", h.Name, err)
	}
	return s, nil
}

type arpSocket struct {
	*arp.Client
	ifi  *net.Interface
	addr netip.Addr
}

func (s *arpSocket) request() error { return s.Request(s.addr) }

func (s *arpSocket) receive() (Answer, bool, error) {
	p, _, err := s.Read()
	if err != nil {
		return Answer{}, false, err
	}
	ok := p.Operation == arp.OperationReply && p.SenderIP == s.addr && bytes.Equal(p.TargetHardwareAddr, s.ifi.HardwareAddr)
	return Answer{p.SenderHardwareAddr.String(), time.Now()}, ok, nil
}

type ndpSocket struct {
	*ndp.Conn
	ifi  *net.Interface
	addr netip.Addr
}

func (s *ndpSocket) request() error {
	group, err := ndp.SolicitedNodeMulticast(s.addr)
	if err != nil {
		return err
	}
	return s.WriteTo(&ndp.NeighborSolicitation{
		TargetAddress: s.addr,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: s.ifi.HardwareAddr}},
	}, nil, group)
}

func (s *ndpSocket) receive() (Answer, bool, error) {
	message, _, _, err := s.ReadFrom()
	if err != nil {
		return Answer{}, false, err
	}
	a, ok := message.(*ndp.NeighborAdvertisement)
	if !ok || !a.Solicited || a.TargetAddress != s.addr {
		return Answer{}, false, nil
	}
	for _, o := range a.Options {
		if l, ok := o.(*ndp.LinkLayerAddress); ok && l.Direction == ndp.Target {
			return Answer{l.Addr.String(), time.Now()}, true, nil
		}
	}
	return Answer{}, false, nil
}
