"""Networks: plain ``nn.Module`` classes, images in, logits out; nothing of Lightning in here."""
