package bgp

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Messages of RFC 4271 section 4.1 and RFC 2918.
const (
	msgOpen         = 1
	msgUpdate       = 2
	msgNotification = 3
	msgKeepalive    = 4
	msgRouteRefresh = 5

	headerLen  = 19
	maxMessage = 4096
)

var (
	marker    = bytes.Repeat([]byte{0xff}, 16)
	keepalive = newMessage(msgKeepalive, nil)
	// minLength is the minimum length of a message, by type.
	minLength = [...]int{msgOpen: 29, msgUpdate: 23, msgNotification: 21, msgKeepalive: 19, msgRouteRefresh: 23}
)

// newMessage returns a message of a type with a body.
func newMessage(kind uint8, body []byte) []byte {
	m := make([]byte, headerLen, headerLen+len(body))
	copy(m, marker)
	binary.BigEndian.PutUint16(m[16:], uint16(headerLen+len(body)))
	m[18] = kind
	return append(m, body...)
}

const (
	// closeWait is the time limit for the delivery of a NOTIFICATION.
	closeWait = time.Second
	// sendHoldTime is how long a write may block (RFC 9687 section 5).
	sendHoldTime = 8 * time.Minute
	readBuffer   = 16 << 10
	socketBuffer = 256 << 10
)

// checkHeader returns the type and length of a message, or a *sessionEnd if the
// header is invalid (RFC 4271 section 6.1).
func checkHeader(h []byte) (kind uint8, length int, err error) {
	if !bytes.Equal(h[:16], marker) {
		return 0, 0, &sessionEnd{
			notification: &Notification{codeHeader, notSynchronized, nil},
			reason:       "invalid BGP message from the peer: wrong marker",
		}
	}
	length, kind = int(binary.BigEndian.Uint16(h[16:])), h[18]
	if int(kind) >= len(minLength) || kind == 0 {
		return 0, 0, &sessionEnd{
			notification: &Notification{codeHeader, badType, []byte{kind}},
			reason:       fmt.Sprintf("the peer sent a message of unknown type %d", kind),
		}
	}
	fixed := kind == msgKeepalive || kind == msgRouteRefresh
	if length < minLength[kind] || length > maxMessage || fixed && length != minLength[kind] {
		return 0, 0, &sessionEnd{
			notification: &Notification{codeHeader, badLength, bytes.Clone(h[16:18])},
			reason:       fmt.Sprintf("the peer sent a message of type %d with invalid length %d", kind, length),
		}
	}
	return kind, length, nil
}

// messageConn is a connection of whole messages. One goroutine reads, any may
// write.
type messageConn struct {
	net.Conn
	in  *bufio.Reader
	buf [maxMessage]byte

	closing atomic.Bool // set by closeWith

	mu  sync.Mutex // held while a message is written
	out *bufio.Writer
}

func newMessageConn(conn net.Conn) *messageConn {
	if tcp, ok := conn.(*net.TCPConn); ok {
		// By default the kernel would buffer megabytes for a peer that does not read.
		_ = tcp.SetWriteBuffer(socketBuffer) // on failure more memory is used
		_ = tcp.SetReadBuffer(socketBuffer)
	}
	return &messageConn{Conn: conn, in: bufio.NewReaderSize(conn, readBuffer), out: bufio.NewWriterSize(conn, readBuffer)}
}

// readMessage returns the type and body of the next message. The next call overwrites
// the body. A message of more than 4096 bytes is an error, and is not read.
func (w *messageConn) readMessage() (kind uint8, body []byte, err error) {
	if _, err := io.ReadFull(w.in, w.buf[:headerLen]); err != nil {
		return 0, nil, err
	}
	kind, length, err := checkHeader(w.buf[:headerLen])
	if err != nil {
		return 0, nil, err
	}
	if _, err := io.ReadFull(w.in, w.buf[headerLen:length]); err != nil {
		return 0, nil, err
	}
	return kind, w.buf[headerLen:length], nil
}

// writeMessage writes a message, and with flush sends it and those before it. It blocks
// for up to 8 minutes while the peer does not read (RFC 9687).
func (w *messageConn) writeMessage(message []byte, flush bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.SetWriteDeadline(time.Now().Add(sendHoldTime)); err != nil {
		return fmt.Errorf("set the write deadline: %w", err)
	}
	if w.closing.Load() { // checked after the deadline was set: closeWith sets another one after this
		return net.ErrClosed
	}
	return w.bufferMessage(message, flush)
}

func (w *messageConn) bufferMessage(message []byte, flush bool) error {
	if _, err := w.out.Write(message); err != nil {
		return err
	}
	if flush {
		return w.out.Flush()
	}
	return nil
}

// closeWith closes the connection. It sends the NOTIFICATION first, if any, and
// waits until the peer has closed its end too: a close with unread data in the
// socket would send a reset, which the NOTIFICATION could be lost to. It does not
// wait for a peer that does not read.
func (w *messageConn) closeWith(n *Notification) {
	defer func() { _ = w.Close() }() // a failure has no consequence
	w.closing.Store(true)
	if n == nil {
		return
	}
	_ = w.SetWriteDeadline(time.Now().Add(closeWait / 4)) // ends a write that holds the lock
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bufferMessage(n.encode(), true) != nil {
		return
	}
	half, ok := w.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	timeout := time.AfterFunc(closeWait, func() { _ = w.Close() })
	defer timeout.Stop()
	_, _ = io.Copy(io.Discard, w.Conn)
}
