package controller

import (
	"context"
	"crypto/rand"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// ensureBFDSecret creates the Secret that the speakers derive the discriminators of
// BFD sessions from, unless it exists. It retries until it has succeeded or ctx ends.
// The controller may neither read nor replace the Secret: with another one, the
// speakers cannot resume their sessions.
func (c *Controller) ensureBFDSecret(ctx context.Context) {
	key, immutable := make([]byte, v1alpha1.BFDSecretLength), true
	_, _ = rand.Read(key) // never fails, by its documentation
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.BFDSecret, Namespace: c.namespace},
		Immutable:  &immutable,
		Data:       map[string][]byte{v1alpha1.BFDSecretKey: key},
	}
	lastError := ""
	for delay := firstRetry; ; delay = min(2*delay, lastRetry) {
		err := c.createSecret(ctx, secret)
		switch {
		case err == nil:
			c.log.Info("Secret for BFD created", "namespace", c.namespace, "secret", v1alpha1.BFDSecret)
			return
		case apierrors.IsAlreadyExists(err):
			return
		case err.Error() != lastError && ctx.Err() == nil:
			lastError = err.Error()
			c.log.Warn("create the Secret for BFD failed, retrying", "namespace", c.namespace, "secret", v1alpha1.BFDSecret, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
	}
}

func (c *Controller) createSecret(ctx context.Context, secret *corev1.Secret) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	_, err := c.client.CoreV1().Secrets(secret.Namespace).Create(ctx, secret, metav1.CreateOptions{FieldManager: v1alpha1.FieldManager})
	return err
}
