package bfd

import (
	"math/rand/v2"
	"testing"
)

// TestReorderedPackets checks that delayed packets, such as packets that waited for
// ARP resolution, take a session down at most once each, plus once, and that two
// ends stop replying to each other soon, whichever packets are in transit.
func TestReorderedPackets(t *testing.T) {
	states := []State{Down, Init, Up}
	for seed := range uint64(20000) {
		random := rand.New(rand.NewPCG(seed, 1))
		ends, inFlight, stray := [2]*session{}, [2][]controlPacket{}, 0
		for i := range ends {
			ends[i] = newSession(uint32(i+1), fastProfile, 0)
			ends[i].state = states[random.IntN(3)]
			ends[i].packetSent(0, 0)
		}
		for i, s := range ends {
			for range random.IntN(7) {
				p := s.nextPacket()
				p.state, p.yourDiscriminator, p.poll = states[random.IntN(3)], uint32(2-i), random.IntN(2) == 0
				inFlight[1-i] = append(inFlight[1-i], p)
				stray++
			}
		}
		turns := 0
		for ; len(inFlight[0])+len(inFlight[1]) > 0; turns++ {
			i := random.IntN(2)
			if len(inFlight[i]) == 0 {
				i = 1 - i
			}
			s, p := ends[i], inFlight[i][0]
			inFlight[i] = inFlight[i][1:]
			s.receivePacket(p, 0)
			if s.finalPending {
				inFlight[1-i] = append(inFlight[1-i], s.finalPacket())
			}
			if s.sendNow {
				inFlight[1-i] = append(inFlight[1-i], s.nextPacket())
				s.packetSent(0, 0)
			}
		}
		if flaps := ends[0].flaps + ends[1].flaps; flaps > stray+1 || turns > 10*stray {
			t.Errorf("seed %d: %d packets led to %d flaps and %d packets", seed, stray, flaps, turns)
		}
	}
}
