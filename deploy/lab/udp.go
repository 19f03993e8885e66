package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// EchoUDP answers each UDP packet to the address by its content and the name of the host,
// until the sandbox ends.
func (h *Host) EchoUDP(address string) error {
	return h.Do(func() error {
		conn, err := net.ListenPacket("udp", address)
		if err != nil {
			return fmt.Errorf("serve on %s %s: %w", h.Name, address, err)
		}
		go func() {
			buf := make([]byte, 1500)
			for {
				n, client, err := conn.ReadFrom(buf)
				if err == nil {
					_, _ = conn.WriteTo(append(buf[:n:n], " from "+h.Name...), client) // a lost response is a lost request
				}
			}
		}()
		return nil
	})
}

// udpClient sends requests to an EchoUDP from one socket. Its methods may be called
// concurrently.
type udpClient struct {
	conn net.Conn

	mu      sync.Mutex
	last    int                    // number of the last request
	waiting map[string]chan string // by the content of the request
}

// firstFlowPort is the first source port of newFlow. It is above the fixed ports of the lab.
const firstFlowPort = 20000

// newFlow is dialUDP from a source port that newFlow has not used recently. The kernel selects
// ports at random, also one of a flow that conntrack still assigns to an earlier pod.
func (h *Host) newFlow(target string) (c *udpClient, err error) {
	for range 100 { // other sockets may have some of the ports
		port := firstFlowPort + int(h.flows.Add(1)%(1<<16-firstFlowPort))
		if c, err = h.dialUDP(target, port); !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return c, err
}

// dialUDP opens a socket with a source port, any if it is 0.
func (h *Host) dialUDP(target string, port int) (*udpClient, error) {
	c := &udpClient{waiting: map[string]chan string{}}
	err := h.Do(func() (err error) {
		c.conn, err = (&net.Dialer{LocalAddr: &net.UDPAddr{Port: port}}).Dial("udp", target)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("from %s: %w", h.Name, err)
	}
	go c.receive()
	return c, nil
}

// receive passes the responses on, until the socket is closed.
func (c *udpClient) receive() {
	buf := make([]byte, 1500)
	for {
		n, err := c.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error: the request is lost
		}
		number, answer, _ := strings.Cut(string(buf[:n]), " ")
		c.mu.Lock()
		response := c.waiting[number]
		delete(c.waiting, number) // a duplicate is ignored
		c.mu.Unlock()
		if response != nil {
			response <- answer
		}
	}
}

// exchange sends a request, and returns the response without the number of the request.
func (c *udpClient) exchange(ctx context.Context) (string, error) {
	response := make(chan string, 1)
	c.mu.Lock()
	c.last++
	number := strconv.Itoa(c.last)
	c.waiting[number] = response
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.waiting, number)
	}()
	if _, err := c.conn.Write([]byte(number)); err != nil {
		return "", err
	}
	select {
	case answer := <-response:
		return answer, nil
	case <-ctx.Done():
	}
	select {
	case answer := <-response: // at the same time
		return answer, nil
	default:
		return "", ctx.Err()
	}
}

func (c *udpClient) close() { _ = c.conn.Close() }
