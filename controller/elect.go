package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	componentbaseconfig "k8s.io/component-base/config"
)

// ErrLostLease is returned by RunElected when another replica may lead now.
var ErrLostLease = errors.New("lost the leader lease")

// RunElected runs work while this process, known as identity, holds the lease
// that the configuration names. When ctx ends, work is let finish before the
// lease is released, so that the next leader never meets a write in flight.
func RunElected(ctx context.Context, client kubernetes.Interface, election componentbaseconfig.LeaderElectionConfiguration, identity string, work func(context.Context)) error {
	if !election.LeaderElect {
		work(ctx)
		return nil
	}
	lock, err := resourcelock.New(election.ResourceLock, election.ResourceNamespace, election.ResourceName,
		client.CoreV1(), client.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: identity})
	if err != nil {
		return fmt.Errorf("leader lease %s/%s: %w", election.ResourceNamespace, election.ResourceName, err)
	}
	var working sync.Mutex
	leading, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	defer context.AfterFunc(ctx, func() {
		working.Lock()
		defer working.Unlock()
		release()
	})()
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:            lock,
		LeaseDuration:   election.LeaseDuration.Duration,
		RenewDeadline:   election.RenewDeadline.Duration,
		RetryPeriod:     election.RetryPeriod.Duration,
		ReleaseOnCancel: true,
		Name:            election.ResourceName,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(held context.Context) {
				working.Lock()
				defer working.Unlock()
				held, cancel := context.WithCancel(held)
				defer cancel()
				defer context.AfterFunc(ctx, cancel)()
				work(held)
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("leader election: %w", err)
	}
	elector.Run(leading)
	if ctx.Err() == nil {
		return ErrLostLease
	}
	return nil
}
