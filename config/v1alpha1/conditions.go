package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// GetConditions returns the conditions, for reading and writing.
func (s *IPAddressPoolStatus) GetConditions() *[]metav1.Condition { return &s.Conditions }

// GetConditions returns the conditions, for reading and writing.
func (s *L2AdvertisementStatus) GetConditions() *[]metav1.Condition { return &s.Conditions }

// GetConditions returns the conditions, for reading and writing.
func (s *BGPPeerStatus) GetConditions() *[]metav1.Condition { return &s.Conditions }

// GetConditions returns the conditions, for reading and writing.
func (s *BGPAdvertisementStatus) GetConditions() *[]metav1.Condition { return &s.Conditions }

// GetConditions returns the conditions, for reading and writing.
func (s *CommunityStatus) GetConditions() *[]metav1.Condition { return &s.Conditions }
