package l2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

const (
	// maxReceived bounds the frames that are received before others may use the socket.
	// It is more than receiveBuffer holds.
	maxReceived = 4096

	// askInterval is the shortest mean time between two questions, each of which has an
	// answer, and askBatchSize the number of questions that share a pause.
	askInterval  = 100 * time.Microsecond
	askBatchSize = 64

	// maxUnlimited is the number of addresses that are asked for without a pause.
	maxUnlimited = 6
)

// askSocket asks for addresses of one family on one interface.
type askSocket struct {
	family
	ifi  net.Interface
	conn *packet.Conn
	raw  syscall.RawConn

	// Guarded by the lock of the Asker.
	users      int
	idle       *time.Timer
	releasedAt time.Time

	mu        sync.Mutex
	inquiries map[*inquiry]bool
	err       error     // the socket has failed or was closed
	allowed   time.Time // when the rate limit allows the next batch
	buf       [1500]byte
}

func openAskSocket(ifi *net.Interface, f family) (*askSocket, error) {
	program, err := f.newAnswerFilter(ifi.Index, ifi.HardwareAddr)
	if err != nil {
		return nil, err
	}
	conn, err := listenFiltered(ifi, f, program)
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("open %s socket: %w", f, err)
	}
	return &askSocket{family: f, ifi: *ifi, conn: conn, raw: raw, inquiries: make(map[*inquiry]bool)}, nil
}

// isBoundTo reports whether the socket works and is bound to the interface with its
// current MAC.
func (s *askSocket) isBoundTo(ifi *net.Interface) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err == nil && s.ifi.Index == ifi.Index && bytes.Equal(s.ifi.HardwareAddr, ifi.HardwareAddr)
}

// close closes the socket, and ends its inquiries with the error.
func (s *askSocket) close(err error) {
	s.fail(err)
	_ = s.conn.Close()
}

func (s *askSocket) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = err
	for q := range s.inquiries {
		q.end(err)
	}
}

// receive receives answers until the socket fails or is closed.
func (s *askSocket) receive() {
	for {
		var failure error
		err := s.raw.Read(func(fd uintptr) (returns bool) {
			more, err := s.receiveAll(fd)
			failure = err
			return more || err != nil
		})
		if err = errors.Join(err, failure); err != nil {
			s.fail(fmt.Errorf("receive: %w", err))
			return
		}
	}
}

// receiveNow receives the answers that have arrived.
func (s *askSocket) receiveNow() (err error) {
	controlErr := s.raw.Control(func(fd uintptr) { _, err = s.receiveAll(fd) })
	if err = errors.Join(err, controlErr); err != nil {
		s.fail(fmt.Errorf("receive: %w", err)) // the kernel reports it once
	}
	return err
}

// receiveAll receives the answers that have arrived. There may be more if their number
// has reached maxReceived.
func (s *askSocket) receiveAll(fd uintptr) (more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range maxReceived {
		n, err := unix.Read(int(fd), s.buf[:])
		switch {
		case errors.Is(err, unix.EAGAIN):
			return false, nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return false, os.NewSyscallError("read", err)
		}
		m, ok := s.parse(s.ifi.HardwareAddr, s.buf[:n])
		if !ok {
			continue
		}
		for q := range s.inquiries {
			q.receiveAnswer(m.mac, m.claim)
		}
	}
	return true, nil
}

// ask sends the questions of the inquiry until all are answered or have timed out.
func (s *askSocket) ask(ctx context.Context, q *inquiry, own []netip.Prefix, timeout time.Duration) error {
	s.mu.Lock()
	if s.err != nil {
		q.end(s.err)
	}
	s.inquiries[q] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.inquiries, q)
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-q.done:
			return q.err
		case <-timer.C:
		}
		// A process that was not scheduled for a while must not mistake that for a
		// missing answer.
		if err := s.receiveNow(); err != nil {
			return err
		}
		batch, wait := s.nextBatch(q)
		if len(batch) == 0 && wait == 0 {
			return nil
		}
		for _, t := range batch {
			frame := s.solicitation(s.ifi.HardwareAddr, selectSender(own, t.addr), t.addr, q.mac)
			if _, err := s.conn.WriteTo(frame, &packet.Addr{HardwareAddr: q.mac}); err != nil {
				return fmt.Errorf("send: %w", err)
			}
			s.mu.Lock()
			if !t.removed {
				q.queue.push(t, time.Now(), timeout)
			}
			s.mu.Unlock()
		}
		timer.Reset(wait)
	}
}

// nextBatch returns the tasks whose questions are to be sent, and the time until the next
// batch, 0 if there is none.
func (s *askSocket) nextBatch(q *inquiry) (batch []*task, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	// A question for a few addresses does not wait for those that are for many.
	if wait := s.allowed.Sub(now); wait > 0 && len(q.tasks) > maxUnlimited {
		return nil, wait
	}
	for len(batch) < askBatchSize {
		t, left := q.queue.pop(now)
		if t == nil {
			wait = left
			break
		}
		if t.step < askAttempts { // otherwise the host has not answered
			t.step++
			batch = append(batch, t)
		}
	}
	if len(batch) > 0 {
		wait = time.Duration(len(batch)) * askInterval
		if s.allowed.Before(now) {
			s.allowed = now
		}
		s.allowed = s.allowed.Add(wait)
	}
	return batch, wait
}
