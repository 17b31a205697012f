"""The second Toyland, whose layout follows its words. It takes the first one's place when its model is trained."""
